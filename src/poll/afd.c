/* The AFD backend (Windows): readiness out of Winsock's driver, through a completion port.
 *
 * IOCTL_AFD_POLL is the call behind select and WSAPoll. Sent to the driver's device for one socket
 * at a time, it completes when the socket is ready, and that comes out of a port that takes any
 * number of them. It is level-triggered and ends with its completion, so each wait first asks again
 * for what it reported before. The driver is not documented; what is used here is what select is
 * made of, and what others have relied on for years. Facts and rules behind the rest:
 * - While it is out, the driver owns the request's memory: status, buffer, and so the slot they
 *   stand in. Slots never move, and are given back when the packet has come; a poller that closes
 *   calls its requests off and waits for their packets.
 * - Two requests for one socket at a time, in one port, lose events. There is one, always: what
 *   has changed meanwhile, or was removed and added again, waits for the packet of the old one.
 *   Such a packet tells nothing: the slot's state says that it was dropped.
 * - A closed socket completes its request, late: by then its number may be another's. That
 *   closes nothing here; who is removed is called off at once, and who is closed without
 *   being removed hears an error, once.
 * - A packet carries a token, the slot's number with its generation: never an address.
 * - Requests to call off are searched for in the list of their device. So 32 slots share one.
 * - Sockets of layered providers are unknown to the driver; it knows the one at the base.
 * - A request ends with its thread on some versions: one that was not called off is asked again. */

#if NKI_HAS_AFD

enum {
    NKI_AFD_POLL_CODE = 0x12024,
    NKI_AFD_BATCH = 256,    /* packets in one call */
    NKI_AFD_GROUP_BITS = 5, /* slots with one device */
    NKI_AFD_KIND = 1,
    NKI_AFD_PATIENCE_MS = 100, /* for the packets of a poller that closes, */
    NKI_AFD_ROUNDS = 10        /* so many times */
};

/* Keys of packets. */
enum {
    NKI_AFD_KEY_DEVICE = 1,
    NKI_AFD_KEY_WAKE = 2
};

/* What a request asks and tells (AFD_POLL_*). */
enum {
    NKI_AFD_RECEIVE = 0x1,
    NKI_AFD_URGENT = 0x2,
    NKI_AFD_SEND = 0x4,
    NKI_AFD_DISCONNECT = 0x8,
    NKI_AFD_ABORT = 0x10,
    NKI_AFD_CLOSED = 0x20, /* on this side */
    NKI_AFD_ACCEPT = 0x80,
    NKI_AFD_REFUSED = 0x100,
    NKI_AFD_ALWAYS = NKI_AFD_ABORT | NKI_AFD_CLOSED | NKI_AFD_REFUSED
};

#define NKI_NT_PENDING ((LONG)0x103)
#define NKI_NT_CANCELLED ((LONG)0xC0000120u)
#define NKI_NT_NOT_FOUND ((LONG)0xC0000225u)

/* Providers that break the rule of handing SIO_BASE_HANDLE on answer these. Not in every SDK. */
#define NKI_SIO_BASE_HANDLE 0x48000022u
#define NKI_SIO_BSP_HANDLE_POLL 0x4800001Du

/* Of <winternl.h>, which has no good names for a header that others include. */
typedef struct nki_nt_string {
    USHORT len;
    USHORT size;
    WCHAR *text;
} nki_nt_string;

typedef struct nki_nt_attributes {
    ULONG size;
    HANDLE root;
    nki_nt_string *name;
    ULONG flags;
    void *security;
    void *quality;
} nki_nt_attributes;

typedef struct nki_nt_status {
    union {
        LONG status;
        void *pointer;
    } u;
    ULONG_PTR information;
} nki_nt_status;

typedef LONG(NTAPI *nki_nt_open_fn)(HANDLE *, ACCESS_MASK, nki_nt_attributes *, nki_nt_status *,
                                    LARGE_INTEGER *, ULONG, ULONG, ULONG, ULONG, void *, ULONG);
typedef LONG(NTAPI *nki_nt_control_fn)(HANDLE, HANDLE, void *, void *, nki_nt_status *, ULONG,
                                       void *, ULONG, void *, ULONG);
typedef LONG(NTAPI *nki_nt_cancel_fn)(HANDLE, nki_nt_status *, nki_nt_status *);
typedef ULONG(NTAPI *nki_nt_code_fn)(LONG);

/* The driver's record (AFD_POLL_INFO) with one socket. */
typedef struct nki_afd_request {
    LARGE_INTEGER timeout;
    ULONG count;
    ULONG is_exclusive;
    HANDLE socket;
    ULONG events;
    LONG status;
} nki_afd_request;

enum {
    NKI_AFD_IDLE,
    NKI_AFD_OUT,    /* the driver has the request, or its packet is in the port */
    NKI_AFD_DROPPED /* the same, but nobody wants to know */
};

typedef struct nki_afd_slot {
    nki_slot slot;           /* first; its id is the token */
    nki_nt_status status;    /* the driver's, as is */
    nki_afd_request request; /* this, while state is not IDLE */
    uint64_t data;
    uintptr_t socket; /* as added */
    uintptr_t base;   /* as the driver knows it */
    ULONG asked;      /* by the request that is out */
    uint32_t events;  /* wanted */
    uint32_t next;    /* in its queue */
    int error;        /* why connecting failed, for who asks */
    uint8_t state;
    bool is_queued;
    bool is_removed;
    bool is_stuck; /* dropped, but calling it off failed */
} nki_afd_slot;

typedef struct nki_afd_queue {
    uint32_t first;
    uint32_t last;
} nki_afd_queue;

typedef struct nki_afd {
    HANDLE port;
    HANDLE *devices;
    uint32_t device_count;
    uint32_t out; /* packets that will come */
    nki_nt_open_fn nt_open;
    nki_nt_control_fn nt_control;
    nki_nt_cancel_fn nt_cancel;
    nki_nt_code_fn nt_code;
    nki_slots slots;
    nki_socket_table table; /* slot plus one */
    nki_afd_queue due;      /* to be looked at before the wait, */
    nki_afd_queue later;    /* but these only before the next one */
    uint64_t wake_data;
    uint32_t is_woken; /* atomic: a wake's packet is in the port */
    bool is_closed;    /* the devices are */
    OVERLAPPED_ENTRY packets[NKI_AFD_BATCH];
} nki_afd;

/* ---- slots and queues ---- */

static nki_afd_slot *nki_afd_at(const nki_afd *afd, uint32_t slot) {
    return (nki_afd_slot *)(void *)nki_slots_at(&afd->slots, slot);
}

static uint32_t nki_afd_number(const nki_afd_slot *s) {
    return nki_id_slot(s->slot.id);
}

/* The token of a slot: all of its id, or where that is too long slot 24 and generation 8. */
static void *nki_afd_token(const nki_afd_slot *s) {
    uint64_t id = s->slot.id;
    uint64_t token = sizeof(void *) >= sizeof(id) ? id : (id >> 32) << NKI_SLOT_BITS;
    return (void *)(uintptr_t)(token | nki_afd_number(s));
}

/* The slot of a token that is waited for, or NULL. */
static nki_afd_slot *nki_afd_of_token(const nki_afd *afd, const void *token) {
    uint32_t number = (uint32_t)(uintptr_t)token & NKI_SLOT_MASK;
    if (number >= afd->slots.capacity) {
        return NULL;
    }
    nki_afd_slot *s = nki_afd_at(afd, number);
    bool is_alive = nki_id_kind(s->slot.id) == NKI_AFD_KIND && nki_afd_token(s) == token;
    return is_alive && s->state != NKI_AFD_IDLE ? s : NULL;
}

/* A socket's slot, one of an earlier life too. */
static nki_afd_slot *nki_afd_any(const nki_afd *afd, uintptr_t native) {
    uint32_t place = nki_socket_table_get(&afd->table, native);
    return place == 0 ? NULL : nki_afd_at(afd, place - 1);
}

static nki_afd_slot *nki_afd_find(const nki_afd *afd, uintptr_t native) {
    nki_afd_slot *s = nki_afd_any(afd, native);
    return s != NULL && !s->is_removed ? s : NULL;
}

static void nki_afd_push(nki_afd *afd, nki_afd_queue *q, nki_afd_slot *s) {
    if (s->is_queued) {
        return;
    }
    s->is_queued = true;
    s->next = NKI_NO_SLOT;
    if (q->first == NKI_NO_SLOT) {
        q->first = nki_afd_number(s);
    } else {
        nki_afd_at(afd, q->last)->next = nki_afd_number(s);
    }
    q->last = nki_afd_number(s);
}

static nki_afd_slot *nki_afd_pop(nki_afd *afd, nki_afd_queue *q) {
    if (q->first == NKI_NO_SLOT) {
        return NULL;
    }
    nki_afd_slot *s = nki_afd_at(afd, q->first);
    q->first = s->next;
    s->is_queued = false;
    return s;
}

/* Everything is due that was left for later. */
static void nki_afd_advance(nki_afd *afd) {
    if (afd->later.first == NKI_NO_SLOT) {
        return;
    }
    if (afd->due.first == NKI_NO_SLOT) {
        afd->due.first = afd->later.first;
    } else {
        nki_afd_at(afd, afd->due.last)->next = afd->later.first;
    }
    afd->due.last = afd->later.last;
    afd->later.first = NKI_NO_SLOT;
}

/* Neither the driver nor a queue nor the user has it. */
static void nki_afd_give(nki_afd *afd, nki_afd_slot *s) {
    if (s->is_removed && !s->is_queued && s->state == NKI_AFD_IDLE) {
        nki_socket_table_drop(&afd->table, s->socket);
        nki_slots_give(&afd->slots, s);
    }
}

/* ---- the device ---- */

static HANDLE nki_afd_device(const nki_afd *afd, const nki_afd_slot *s) {
    return afd->devices[nki_afd_number(s) >> NKI_AFD_GROUP_BITS];
}

static int nki_afd_code(const nki_afd *afd, LONG status) {
    return (int)afd->nt_code(status);
}

/* Why connecting failed, in Winsock's own words: as SO_ERROR has it. */
static int nki_afd_connect_code(const nki_afd *afd, LONG status) {
    switch ((ULONG)status) {
    case 0xC0000236u: return WSAECONNREFUSED;
    case 0xC00000B5u: return WSAETIMEDOUT;
    case 0xC000023Cu: return WSAENETUNREACH;
    case 0xC000023Du: return WSAEHOSTUNREACH;
    case 0xC000013Cu: /* disconnected by the peer */
    case 0xC000020Du: return WSAECONNRESET;
    case 0xC000013Bu: /* and by ourselves */
    case 0xC0000241u: return WSAECONNABORTED;
    case 0xC0000022u: return WSAEACCES;
    default: return nki_afd_code(afd, status);
    }
}

static int nki_afd_open_device(nki_afd *afd, HANDLE *out) {
    static const WCHAR path[] = L"\\Device\\Afd\\netkit";
    WCHAR text[NKI_COUNT(path)];
    nki_nt_string name;
    nki_nt_attributes attributes;
    nki_nt_status ignored;
    memcpy(text, path, sizeof(path));
    name.len = (USHORT)(sizeof(path) - sizeof(path[0]));
    name.size = (USHORT)sizeof(path);
    name.text = text;
    memset(&attributes, 0, sizeof(attributes));
    attributes.size = (ULONG)sizeof(attributes);
    attributes.name = &name;
    *out = NULL;
    LONG status = NKI_SYS_nt_open(afd->nt_open, out, SYNCHRONIZE, &attributes, &ignored,
                                  FILE_SHARE_READ | FILE_SHARE_WRITE, 1 /* FILE_OPEN */);
    if (status < 0) {
        return nki_os_fail(nki_afd_code(afd, status));
    }
    if (NKI_SYS_port_add(afd->port, *out, NKI_AFD_KEY_DEVICE) == NULL) {
        int os_code = (int)GetLastError();
        NKI_SYS_close_handle(*out);
        return nki_os_fail(os_code);
    }
    /* The device's own event is signalled for nobody; that it goes on is no harm. */
    (void)NKI_SYS_port_modes(*out, FILE_SKIP_SET_EVENT_ON_HANDLE);
    return NETKIT_OK;
}

/* Devices for slots up to `slot`. */
static int nki_afd_open_devices(nki_poller *p, uint32_t slot) {
    nki_afd *afd = (nki_afd *)p->state;
    uint32_t group = slot >> NKI_AFD_GROUP_BITS;
    if (group < afd->device_count && afd->devices[group] != NULL) {
        return NETKIT_OK;
    }
    if (group >= afd->device_count) {
        uint32_t count = NKI_MAX(group + 1, afd->device_count * 2);
        HANDLE *devices = (HANDLE *)nki_alloc_zero(&p->allocator, count * sizeof(*devices));
        if (devices == NULL) {
            return NETKIT_E_NOMEM;
        }
        if (afd->device_count > 0) {
            memcpy(devices, afd->devices, afd->device_count * sizeof(*devices));
        }
        nki_free(&p->allocator, afd->devices, afd->device_count * sizeof(*devices));
        afd->devices = devices;
        afd->device_count = count;
    }
    return nki_afd_open_device(afd, &afd->devices[group]);
}

static void nki_afd_close_devices(nki_afd *afd) {
    for (uint32_t i = 0; i < afd->device_count; i++) {
        if (afd->devices[i] != NULL) {
            NKI_SYS_close_handle(afd->devices[i]);
            afd->devices[i] = NULL;
        }
    }
    afd->is_closed = true;
}

/* The socket that the driver knows. */
static int nki_afd_base(uintptr_t native, uintptr_t *out) {
    SOCKET s = (SOCKET)native;
    for (int layers = 0; layers < 32; layers++) {
        SOCKET base = INVALID_SOCKET;
        DWORD got = 0;
        int rc = NKI_SYS_control(s, NKI_SIO_BASE_HANDLE, NULL, 0, &base, (DWORD)sizeof(base), &got);
        if (rc == 0 && base != INVALID_SOCKET) {
            *out = (uintptr_t)base;
            return NETKIT_OK;
        }
        int os_code = WSAGetLastError();
        if (os_code == WSAENOTSOCK || os_code == WSANOTINITIALISED) {
            return nki_os_fail(os_code);
        }
        rc = NKI_SYS_control(s, NKI_SIO_BSP_HANDLE_POLL, NULL, 0, &base, (DWORD)sizeof(base), &got);
        if (rc != 0 || base == INVALID_SOCKET || base == s) {
            return nki_os_fail(os_code);
        }
        s = base; /* one layer down */
    }
    return nki_os_fail(WSAEINVAL);
}

/* ---- requests ---- */

static ULONG nki_afd_from(uint32_t events) {
    int bits = NKI_AFD_ALWAYS;
    if ((events & NKI_POLL_SPEAKS) == 0) {
        return 0;
    }
    bits |= (events & NETKIT_POLL_READ) != 0 ? NKI_AFD_RECEIVE | NKI_AFD_ACCEPT | NKI_AFD_DISCONNECT
                                             : 0;
    bits |= (events & NETKIT_POLL_PRIORITY) != 0 ? NKI_AFD_URGENT : 0;
    bits |= (events & NETKIT_POLL_WRITE) != 0 ? NKI_AFD_SEND : 0;
    bits |= (events & NETKIT_POLL_PEER_END) != 0 ? NKI_AFD_DISCONNECT : 0;
    return (ULONG)bits;
}

/* As Linux tells it: after a refusal or a reset both directions are over, and neither blocks. */
static uint32_t nki_afd_to(ULONG bits) {
    int events = (bits & (NKI_AFD_RECEIVE | NKI_AFD_ACCEPT)) != 0 ? NETKIT_POLL_READ : 0;
    events |= (bits & NKI_AFD_URGENT) != 0 ? NETKIT_POLL_PRIORITY : 0;
    events |= (bits & NKI_AFD_SEND) != 0 ? NETKIT_POLL_WRITE : 0;
    events |= (bits & NKI_AFD_DISCONNECT) != 0 ? NETKIT_POLL_READ | NETKIT_POLL_PEER_END : 0;
    if ((bits & (NKI_AFD_ABORT | NKI_AFD_REFUSED)) != 0) {
        events |= NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_PEER_END;
        events |= NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
    }
    return (uint32_t)events;
}

/* Call the request off: its packet comes, and tells nobody. Returns 0 or the system's code. */
static int nki_afd_drop(nki_afd *afd, nki_afd_slot *s) {
    nki_nt_status ignored;
    LONG status = NKI_SYS_nt_cancel(afd->nt_cancel, nki_afd_device(afd, s), &s->status, &ignored);
    s->state = NKI_AFD_DROPPED;
    s->is_stuck = status < 0 && status != NKI_NT_NOT_FOUND;
    return s->is_stuck ? nki_afd_code(afd, status) : 0;
}

/* The driver knows no such socket: closed, as others are told, by a packet of our own. */
static int nki_afd_tell_closed(nki_afd *afd, nki_afd_slot *s) {
    s->status.u.status = 0;
    s->request.events = NKI_AFD_CLOSED;
    OVERLAPPED *token = (OVERLAPPED *)nki_afd_token(s);
    return NKI_SYS_port_post(afd->port, NKI_AFD_KEY_DEVICE, token) ? 0 : (int)GetLastError();
}

/* Returns 0 or the system's code. */
static int nki_afd_ask(nki_afd *afd, nki_afd_slot *s, ULONG bits) {
    nki_afd_request *r = &s->request;
    memset(r, 0, sizeof(*r));
    r->timeout.QuadPart = INT64_MAX;
    r->count = 1;
    r->socket = (HANDLE)s->base;
    r->events = bits;
    s->status.u.status = NKI_NT_PENDING;
    LONG status =
        NKI_SYS_nt_control(afd->nt_control, nki_afd_device(afd, s), nki_afd_token(s), &s->status,
                           NKI_AFD_POLL_CODE, r, (ULONG)sizeof(*r), r, (ULONG)sizeof(*r));
    int os_code = status < 0 ? nki_afd_code(afd, status) : 0;
    if (os_code == (int)ERROR_INVALID_HANDLE) { /* the number may be of another thing by now */
        os_code = nki_afd_tell_closed(afd, s);
    }
    if (os_code == 0) { /* at once or later: there will be a packet */
        s->state = NKI_AFD_OUT;
        s->asked = bits;
        afd->out++;
    }
    return os_code;
}

/* Bring the request in line with what is wanted. Returns 0 or the system's code. */
static int nki_afd_settle(nki_afd *afd, nki_afd_slot *s) {
    ULONG bits = nki_afd_from(s->events);
    switch (s->state) {
    case NKI_AFD_IDLE:
        if (s->is_removed) {
            nki_afd_give(afd, s);
            return 0;
        }
        return bits != 0 ? nki_afd_ask(afd, s, bits) : 0;
    case NKI_AFD_OUT: /* what is asked too much is passed over when it comes */
        return (bits & ~s->asked) != 0 ? nki_afd_drop(afd, s) : 0;
    default: return s->is_stuck && bits != 0 ? nki_afd_drop(afd, s) : 0;
    }
}

/* All that is due. What fails is tried again with the next wait; returns 0 or the first code. */
static int nki_afd_settle_all(nki_afd *afd) {
    int first = 0;
    nki_afd_slot *s;
    while ((s = nki_afd_pop(afd, &afd->due)) != NULL) {
        int os_code = nki_afd_settle(afd, s);
        if (os_code != 0) {
            nki_afd_push(afd, &afd->later, s);
            first = first == 0 ? os_code : first;
        }
    }
    return first;
}

/* ---- the poller ---- */

static int nki_afd_load(nki_afd *afd) {
    typedef void (*any_fn)(void);
    afd->nt_open = (nki_nt_open_fn)(any_fn)NKI_SYS_ntdll("NtCreateFile");
    afd->nt_control = (nki_nt_control_fn)(any_fn)NKI_SYS_ntdll("NtDeviceIoControlFile");
    afd->nt_cancel = (nki_nt_cancel_fn)(any_fn)NKI_SYS_ntdll("NtCancelIoFileEx");
    afd->nt_code = (nki_nt_code_fn)(any_fn)NKI_SYS_ntdll("RtlNtStatusToDosError");
    bool has_all = afd->nt_open != NULL && afd->nt_control != NULL && afd->nt_cancel != NULL &&
                   afd->nt_code != NULL;
    return has_all ? NETKIT_OK : nki_os_fail((int)GetLastError());
}

static void nki_afd_free(nki_poller *p) {
    nki_afd *afd = (nki_afd *)p->state;
    nki_afd_close_devices(afd);
    if (afd->port != NULL) {
        NKI_SYS_close_handle(afd->port);
    }
    nki_free(&p->allocator, afd->devices, afd->device_count * sizeof(*afd->devices));
    nki_socket_table_free(&afd->table, &p->allocator);
    nki_free(&p->allocator, afd, sizeof(*afd));
    p->state = NULL;
    p->native = UINTPTR_MAX;
}

static int nki_afd_open(nki_poller *p) {
    nki_afd *afd = (nki_afd *)nki_alloc_zero(&p->allocator, sizeof(*afd));
    if (afd == NULL) {
        return NETKIT_E_NOMEM;
    }
    p->state = afd;
    afd->due.first = afd->later.first = NKI_NO_SLOT;
    nki_slots_init(&afd->slots, &p->allocator, sizeof(nki_afd_slot), NKI_SLOT_MASK, 1);
    int rc = nki_afd_load(afd);
    if (rc == NETKIT_OK) {
        afd->port = NKI_SYS_port_create();
        rc = afd->port == NULL ? nki_os_fail((int)GetLastError()) : NETKIT_OK;
    }
    if (rc == NETKIT_OK) {
        rc = nki_afd_open_devices(p, 0); /* else another backend may */
    }
    if (rc != NETKIT_OK) {
        int os_code = nki_os_code();
        nki_afd_free(p);
        (void)nki_os_fail(os_code);
        return rc;
    }
    p->native = (uintptr_t)afd->port;
    return NETKIT_OK;
}

/* Take up to `most` packets; 0 after the time, or the system's code, negative. */
static int nki_afd_fetch(nki_afd *afd, int most, int ms) {
    ULONG room = (ULONG)NKI_MIN(most, (int)NKI_AFD_BATCH);
    DWORD time = ms < 0 ? INFINITE : (DWORD)ms;
    ULONG got = 0;
    BOOL is_well = afd->is_closed ? NKI_SYS_port_drain(afd->port, afd->packets, room, &got, time)
                                  : NKI_SYS_port_wait(afd->port, afd->packets, room, &got, time);
    if (is_well) {
        return (int)got;
    }
    DWORD os_code = GetLastError();
    return os_code == WAIT_TIMEOUT ? 0 : -(int)os_code;
}

/* The slot that a packet is for, which has it back; NULL for other packets. */
static nki_afd_slot *nki_afd_land(nki_afd *afd, const OVERLAPPED_ENTRY *packet, uint8_t *was) {
    nki_afd_slot *s = packet->lpCompletionKey == NKI_AFD_KEY_DEVICE
                          ? nki_afd_of_token(afd, packet->lpOverlapped)
                          : NULL;
    if (s != NULL) {
        *was = s->state;
        s->state = NKI_AFD_IDLE;
        s->is_stuck = false;
        afd->out--;
    }
    return s;
}

/* Call everything off, and wait for what the driver still has. */
static void nki_afd_drain(nki_afd *afd) {
    for (int round = 0; afd->out > 0 && round < NKI_AFD_ROUNDS; round++) {
        nki_nt_status ignored;
        for (uint32_t i = 0; i < afd->device_count; i++) {
            if (afd->devices[i] != NULL) {
                (void)NKI_SYS_nt_cancel(afd->nt_cancel, afd->devices[i], NULL, &ignored);
            }
        }
        int got = 1;
        while (afd->out > 0 && got > 0) {
            uint8_t was;
            got = nki_afd_fetch(afd, NKI_AFD_BATCH, NKI_AFD_PATIENCE_MS);
            for (int i = 0; i < got; i++) {
                (void)nki_afd_land(afd, &afd->packets[i], &was);
            }
        }
        if (round == NKI_AFD_ROUNDS / 2) {
            nki_afd_close_devices(afd); /* which ends what cannot be called off */
        }
    }
}

/* Memory that the driver would not give back is left to it: to lose it is better than to have
 * another's written over. */
static void nki_afd_close(nki_poller *p) {
    nki_afd *afd = (nki_afd *)p->state;
    nki_afd_drain(afd);
    if (afd->out == 0) {
        nki_slots_free_all(&afd->slots);
    }
    nki_afd_free(p);
}

/* ---- the set ---- */

static int nki_afd_take(nki_poller *p, uintptr_t native, nki_afd_slot **out) {
    nki_afd *afd = (nki_afd *)p->state;
    void *object;
    int rc = nki_socket_table_reserve(&afd->table, &p->allocator);
    if (rc == NETKIT_OK) {
        rc = nki_slots_take(&afd->slots, NKI_AFD_KIND, &object);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    nki_afd_slot *s = (nki_afd_slot *)object;
    rc = nki_afd_open_devices(p, nki_afd_number(s));
    if (rc != NETKIT_OK) {
        nki_slots_give(&afd->slots, s);
        return rc;
    }
    s->socket = native;
    nki_socket_table_put(&afd->table, native, nki_afd_number(s) + 1);
    *out = s;
    return NETKIT_OK;
}

static int nki_afd_add(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_afd *afd = (nki_afd *)p->state;
    nki_afd_slot *s = nki_afd_any(afd, native);
    uintptr_t base = 0;
    int rc = nki_poller_check_level(events);
    if (rc == NETKIT_OK && s != NULL && !s->is_removed) {
        rc = NETKIT_E_EXISTS;
    }
    if (rc == NETKIT_OK) {
        rc = nki_poller_check_socket(native);
    }
    if (rc == NETKIT_OK) {
        rc = nki_afd_base(native, &base);
    }
    if (rc == NETKIT_OK && s == NULL) {
        rc = nki_afd_take(p, native, &s);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    s->base = base;
    s->events = events;
    s->data = data;
    s->error = 0;
    s->is_removed = false;
    nki_afd_push(afd, &afd->due, s);
    return NETKIT_OK;
}

/* No call is made here: what changes between two waits, and back, costs nothing. */
static int nki_afd_modify(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_afd *afd = (nki_afd *)p->state;
    nki_afd_slot *s = nki_afd_find(afd, native);
    int rc = nki_poller_check_level(events);
    if (rc == NETKIT_OK && s == NULL) {
        rc = NETKIT_E_NOTFOUND;
    }
    if (rc == NETKIT_OK) {
        s->events = events;
        s->data = data;
        nki_afd_push(afd, &afd->due, s);
    }
    return rc;
}

static int nki_afd_remove(nki_poller *p, uintptr_t native) {
    nki_afd *afd = (nki_afd *)p->state;
    nki_afd_slot *s = nki_afd_find(afd, native);
    if (s == NULL) {
        return NETKIT_E_NOTFOUND;
    }
    s->is_removed = true;
    s->events = 0;
    if (s->state == NKI_AFD_OUT) {
        (void)nki_afd_drop(afd, s); /* else closing the socket ends it */
    }
    nki_afd_give(afd, s);
    return NETKIT_OK;
}

/* ---- waiting ---- */

/* What a packet tells of its slot. */
static uint32_t nki_afd_read(nki_afd *afd, nki_afd_slot *s) {
    const nki_afd_request *r = &s->request;
    if (s->events == 0 || s->status.u.status == NKI_NT_CANCELLED) {
        return 0;
    }
    if (s->status.u.status < 0) {
        return NETKIT_POLL_ERROR;
    }
    if (r->count == 0) {
        return 0;
    }
    if ((r->events & NKI_AFD_CLOSED) != 0) {
        s->events = 0; /* it would be told for ever */
        return NETKIT_POLL_ERROR;
    }
    if ((r->events & NKI_AFD_REFUSED) != 0 && r->status < 0) {
        s->error = nki_afd_connect_code(afd, r->status);
    }
    return nki_afd_to(r->events) & nki_poller_allowed(s->events);
}

/* Returns how many events it makes: one or none. */
static int nki_afd_report(nki_afd *afd, const OVERLAPPED_ENTRY *packet, netkit_poll_event *event) {
    uint8_t was = NKI_AFD_IDLE;
    if (packet->lpCompletionKey == NKI_AFD_KEY_WAKE) {
        (void)nki_atomic_exchange(&afd->is_woken, 0); /* before the event is served */
        event->data = afd->wake_data;
        event->events = NETKIT_POLL_READ;
        return 1;
    }
    nki_afd_slot *s = nki_afd_land(afd, packet, &was);
    if (s == NULL) {
        return 0;
    }
    if (s->is_removed) {
        nki_afd_give(afd, s);
        return 0;
    }
    uint32_t bits = was == NKI_AFD_OUT ? nki_afd_read(afd, s) : 0;
    if (bits == 0) {
        nki_afd_push(afd, &afd->due, s);
        return 0;
    }
    event->data = s->data;
    event->events = bits;
    s->events = (s->events & NETKIT_POLL_ONESHOT) != 0 ? 0 : s->events;
    nki_afd_push(afd, &afd->later, s);
    return 1;
}

/* A packet that told nothing is asked again within the same wait; what was reported is not, the
 * user has not yet had time to serve it. Windows may wake a little early: the clock decides. */
static int nki_afd_wait(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns) {
    nki_afd *afd = (nki_afd *)p->state;
    uint64_t deadline_ns = nki_poller_deadline(timeout_ns);
    int n = 0;
    nki_afd_advance(afd);
    for (;;) {
        int os_code = nki_afd_settle_all(afd);
        bool is_over = n > 0 || os_code != 0 || deadline_ns == 0;
        int ms = is_over ? 0 : nki_poller_left_ms(deadline_ns);
        int got = nki_afd_fetch(afd, max - n, ms);
        for (int i = 0; i < got; i++) {
            n += nki_afd_report(afd, &afd->packets[i], &events[n]);
        }
        bool is_idle = got <= 0 || afd->due.first == NKI_NO_SLOT;
        if (n > 0 && (n == max || is_idle)) {
            return n;
        }
        os_code = got < 0 ? -got : os_code;
        if (os_code != 0 && is_idle) {
            return os_code == WSAEINTR ? 0 : nki_os_fail(os_code);
        }
        if (got == 0 && (ms == 0 || nki_poller_left_ms(deadline_ns) == 0)) {
            return 0;
        }
    }
}

/* Before somebody waits for the port without us. */
static void nki_afd_commit(nki_poller *p) {
    nki_afd *afd = (nki_afd *)p->state;
    nki_afd_advance(afd);
    (void)nki_afd_settle_all(afd);
}

static int nki_afd_take_error(nki_poller *p, uintptr_t native) {
    nki_afd_slot *s = nki_afd_find((const nki_afd *)p->state, native);
    int os_code = s != NULL ? s->error : 0;
    if (os_code != 0) {
        s->error = 0;
    }
    return os_code;
}

/* ---- waking ---- */

static int nki_afd_wake_set(nki_poller *p, uint64_t data) {
    ((nki_afd *)p->state)->wake_data = data;
    return NETKIT_OK;
}

/* A port makes no one packet of many, and keeps them in the kernel's memory: so there is one. */
static int nki_afd_wake(const nki_poller *p) {
    nki_afd *afd = (nki_afd *)p->state;
    if (nki_atomic_exchange(&afd->is_woken, 1) != 0) {
        return NETKIT_OK;
    }
    DWORD os_code = GetLastError();
    if (!NKI_SYS_port_post(afd->port, NKI_AFD_KEY_WAKE, NULL)) {
        os_code = GetLastError();
        (void)nki_atomic_exchange(&afd->is_woken, 0);
        return nki_os_fail((int)os_code);
    }
    SetLastError(os_code);
    return NETKIT_OK;
}

static const nki_poller_ops *nki_afd_ops(void) {
    static const nki_poller_ops ops = {
        "afd",
        NETKIT_BACKEND_AFD,
        false,
        nki_afd_open,
        nki_afd_close,
        nki_afd_add,
        nki_afd_modify,
        nki_afd_remove,
        nki_afd_wait,
        nki_afd_wake_set,
        nki_afd_wake,
        NULL,
        nki_afd_take_error,
        nki_afd_commit,
    };
    return &ops;
}

#endif /* NKI_HAS_AFD */
