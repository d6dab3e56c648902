/* Echo on libevent: bufferevents, the idiomatic way. */
#include "server.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

static void on_read(struct bufferevent *bev, void *user) {
    (void)user;
    struct evbuffer *in = bufferevent_get_input(bev);
    if (server_opt.sink) {
        evbuffer_drain(in, evbuffer_get_length(in));
    } else if (bufferevent_write_buffer(bev, in) != 0) {
        bufferevent_free(bev);
    }
}

static void on_event(struct bufferevent *bev, short what, void *user) {
    (void)user;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) {
        bufferevent_free(bev);
    }
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *addr,
                      int addr_len, void *user) {
    (void)addr;
    (void)addr_len;
    (void)user;
    struct event_base *base = evconnlistener_get_base(listener);
    struct bufferevent *bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (bev == NULL) {
        server_die("bufferevent_socket_new");
    }
    bufferevent_setcb(bev, on_read, NULL, on_event, NULL);
    bufferevent_enable(bev, EV_READ | EV_WRITE);
}

static void on_signal(evutil_socket_t sig, short what, void *user) {
    (void)sig;
    (void)what;
    event_base_loopbreak((struct event_base *)user);
}

int main(int argc, char **argv) {
    server_parse(argc, argv, "");
    struct event_base *base = event_base_new();
    if (base == NULL) {
        server_die("event_base_new");
    }
    int fd = server_socket();
    struct evconnlistener *listener =
        evconnlistener_new(base, on_accept, NULL, LEV_OPT_CLOSE_ON_FREE, 0, fd);
    struct event *term = evsignal_new(base, SIGTERM, on_signal, base);
    if (listener == NULL || term == NULL || event_add(term, NULL) != 0) {
        server_die("libevent");
    }
    server_announce(fd);
    event_base_dispatch(base);
    event_free(term);
    evconnlistener_free(listener);
    event_base_free(base);
    return 0;
}
