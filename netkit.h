/* netkit.h - v0.1.0 - networking for C and C++ in one header
   MIT or public domain, your choice: see the end of this file.

   A loop, TCP, UDP and unix servers and clients, timers, messages between
   threads, plain sockets and a poller, for C99 and C++11, with nothing below but
   libc, and Winsock on Windows.
   This comment is the manual; every declaration below it says the details.

   CONTENTS
       Do this                     DATAGRAMS (UDP)
       An echo server              ADDRESSES
       LOOP AND THREADS            PLAIN SOCKETS
       HANDLES AND LIFETIME        POLLER
       CALLBACK RULES              THE RING (IO_URING)
       READING                     ERRORS
       WRITING AND BACK-PRESSURE   LOGGING AND DEBUG MODE
       CLOSING                     MEMORY
       TIMEOUTS                    CONFIGURATION
       TIMERS                      PLATFORM NOTES
       POSTS                       LIMITS
       WATCHES AND EMBEDDING       VERSIONING
       PULLING EVENTS (GAMES)      FUNCTION INDEX
       MESSAGES AND SMALL PARTS
       UNIX SOCKETS AND DESCRIPTORS
       OPTIONS OF SOCKETS


   Do this
   -------
   In one C or C++ file of your program, before any other include:

       #define NETKIT_IMPLEMENTATION
       #include "netkit.h"

   In all others just

       #include "netkit.h"

   Build it with

       cc -O2 server.c            Linux, glibc or musl; also c++, clang, gcc
       cc -O2 server.c -pthread   glibc before 2.34
       gcc -O2 server.c -lws2_32  Windows, MinGW-w64; also g++, clang
       cl /O2 server.c            MSVC: it names its libraries itself (not yet
                                  tried: see PLATFORM NOTES)

   The declarations include stddef.h, stdint.h and stdbool.h, and nothing else.
   The implementation includes the headers of the system, and wants to be the
   first in its file to do so: it needs feature macros that must come before
   them.


   An echo server
   --------------
   The whole program. It is right as it stands, even against a peer that sends
   for ever and never reads.

       #define NETKIT_IMPLEMENTATION
       #include "netkit.h"

       static size_t echo(netkit_loop *loop, netkit_conn conn, const void *data,
                          size_t len, void *user) {
           (void)user;
           netkit_conn_send(loop, conn, data, len);
           return len;  // bytes consumed; what is left comes again with more
       }                // behind it

       int main(void) {
           netkit_loop *loop;
           netkit_listen_desc desc = {0};
           desc.address = "127.0.0.1:7000";
           desc.handler.on_data = echo;
           if (netkit_loop_create(&loop, NULL) ||
               netkit_listen(loop, &desc, NULL)) return 1;
           return netkit_loop_run(loop);
       }

   Things are made with a desc: a struct that you zero ("= {0}" in C, "= {}" in
   C++) and fill in where you want something else than the default. What 0 means
   stands behind each field. NULL for a whole loop desc is all defaults.

   A client is the same with netkit_connect_desc and netkit_connect. An error is
   a negative int, so "if (netkit_listen(...))" catches them all.


   LOOP AND THREADS
   ----------------
   A netkit_loop does I/O, timers and messages on one thread. It belongs to the
   first thread that runs, polls or waits on it; before that to whoever holds
   it, so that one thread can create and fill it and hand it to another.
   netkit_loop_adopt moves one that nobody is running.

   There are three ways to drive it:

       netkit_loop_run(loop)            until netkit_loop_stop, or until
                                        nothing that counts is left
       netkit_loop_run_once(loop, ms)   one turn, waiting at most so long
       netkit_loop_poll(loop, us)       never waits, works at most so long:
                                        for a frame of a game or a foreign loop

   One turn is: wait for the kernel, or for the next timer -> dispatch what the
   kernel said -> posts -> due timers -> send what was queued -> free what died.
   Every step has a budget (conn_budget, accept_budget, post_budget,
   timer_budget in the loop's desc), so that one busy conn cannot starve the
   rest; what is over the budget comes in the next turn, before any waiting.

   From another thread exactly two things may be done to a loop: netkit_loop_post
   (or netkit_loop_invoke, see POSTS) and netkit_loop_stop (stop from a signal
   handler, too). Every other call gives NETKIT_E_THREAD there; the thread is
   compared, not hoped for. Each comment below ends in its thread rule. A program
   with four cores makes four loops on four threads, each with a listener on the
   same address with desc.reuse_port (Linux and FreeBSD; NETKIT_E_NOSYS where
   the system cannot balance).

   netkit_loop_stop makes the run that is under way return after its turn. It
   sticks: when no run is under way, the next one returns at once. A good
   ending to a program is

       static netkit_loop *volatile running;
       static void on_signal(int n) {
           (void)n;
           if (running) netkit_loop_stop(running);
       }
       ...
       running = loop;
       signal(SIGINT, on_signal);
       signal(SIGTERM, on_signal);
       netkit_loop_run(loop);
       running = NULL;              // a signal may come later than that
       netkit_loop_destroy(loop);

   What counts, so that netkit_loop_run goes on: listeners, conns, udps, watches,
   timers and posts, but not those whose ..._set_referenced was called with
   false (a timer that only prints statistics, say).

   netkit_loop_destroy is the loop's last turn. It aborts all that is open, runs
   posts with NETKIT_E_CANCELLED, delivers every release and every on_close, and
   frees everything. It must not be called in a callback of the same loop.

   A process that was forked off may do one thing with the loops it inherited:
   destroy them. That runs the callbacks of the end in the child, closes the
   child's descriptors, and does not disturb the parent. Everything else there
   could take away what the parent waits for.

   A loop keeps no global state and touches no signal, so any number of them
   live side by side, in a program or in its libraries.


   HANDLES AND LIFETIME
   --------------------
   Conns, listeners, timers and watches die on their own account: a peer goes
   away, a timer has fired. So you hold no pointers to them but handles, 64 bits
   by value:

       netkit_conn conn = {0};     // names nothing

   A handle whose object is gone gives NETKIT_E_STALE, never a crash, and never
   another object in the same place: each slot counts its generations, and the
   count starts at a random number, so a handle used with the wrong loop is
   stale too. {0} is stale always. Handles can be copied, compared by .id, kept
   for as long as you like, and used without asking first:

       netkit_timer_stop(loop, timer);       // fired long ago? no harm

   A conn's handle is valid until its on_close has returned. In on_close
   netkit_conn_ext, netkit_conn_user, netkit_conn_unread and netkit_conn_phase
   still work; the socket is gone, so what asks it (netkit_conn_remote, ...) gives
   NETKIT_E_CLOSED: note the peer's address in on_open if on_close wants it.

   What belongs to a conn can live in three places:

     - desc.user, one pointer for all conns of a listener: the server's state;
     - netkit_conn_set_user, a pointer of this conn's own;
     - netkit_conn_ext: desc.conn.ext_size bytes inside the conn, zeroed,
       aligned to 16, that stay in place until on_close has returned. No malloc,
       nothing to free:

           session *s = (session *)netkit_conn_ext(loop, conn);

   Pointers that you pass in are used during the call only, unless the comment
   of the function says otherwise (netkit_conn_send_borrowed does).


   CALLBACK RULES
   --------------
   The callbacks of a conn stand in a table, netkit_handler, which is copied.
   Each of them may be NULL:

       on_open    ready for application data
       on_data    bytes have come          NULL: they are discarded
       on_drain   there is room again, after a send that gave NETKIT_E_FULL
       on_eof     the peer sends no more   NULL: the conn is closed gracefully
       on_close   the end

     - Callbacks come from the loop, never from inside a call of yours (but
       from netkit_loop_destroy). So there is no recursion: what you do in one
       call has its effects after it.
     - In a callback every call on every object is legal, close and abort on
       the conn that is being served too. Only four things are not:
       running, polling or destroying the same loop (NETKIT_E_BUSY), and waiting
       calls on plain sockets, which would hold up everything else.
     - on_close comes exactly once and is the last. Data comes before the end of
       file, the end of file before the close.
     - An accepted conn whose on_open never came has no on_close: its failure
       goes to the listener's on_error. A conn that you made with netkit_connect
       always ends in on_close, also when connecting fails, because you hold its
       handle. When netkit_connect itself returns an error, nothing is called.
     - Callbacks must not throw or longjmp.
     - netkit_conn_set_handler replaces the table and the user pointer: a
       protocol that upgrades to another.

   The listener's own callbacks (on_accept, which may refuse a connection;
   on_error; on_close) stand in netkit_listen_desc beside the conns' handler.
   When the process has no descriptors left, accepting pauses, tells on_error
   once, and goes on by itself when there are some.


   READING
   -------
   on_data gets a span of bytes and returns how many of them it has consumed.
   The rest is kept and comes again with more behind it. So a parser of
   messages is a loop over whole ones:

       static size_t on_data(netkit_loop *loop, netkit_conn conn,
                             const void *data, size_t len, void *user) {
           const char *text = (const char *)data, *end;
           size_t used = 0;
           while ((end = (const char *)memchr(text + used, '\n', len - used))) {
               on_line(text + used, (size_t)(end - text) - used);
               used = (size_t)(end - text) + 1;
           }
           return used;           // half a line waits for its other half
       }

     - The span lives until the callback returns. A stream has no messages: one
       send of the peer may come as several spans, and several as one.
     - A rest of recv_max bytes (65,536 unless set) of which nothing is consumed
       ends the conn with NETKIT_E_TOOBIG: that is the limit on a message. (Not
       when you have paused it or wait for on_drain: then it is not the message
       that is too long.)
     - netkit_conn_pause stops on_data, also from inside it, and
       netkit_conn_resume starts it again and offers the rest anew, even when
       nothing has come meanwhile. While a conn is paused its end of file is
       held back too: first the data, then the end.
     - In on_eof netkit_conn_unread says how many bytes were left unconsumed: a
       message that was cut short.
     - To keep a large span without copying, call netkit_conn_keep inside
       on_data; netkit_buf_release gives it back, from any thread. All kept
       bytes together are bounded (keep_max in the loop's desc).


   WRITING AND BACK-PRESSURE
   -------------------------
   netkit_conn_send copies the bytes into the conn's queue. It takes all or
   nothing:

       NETKIT_OK        taken; delivered, or on_close says it was not (.unsent)
       NETKIT_E_FULL    nothing was taken. on_drain comes once, when what you
                        wanted to send fits
       NETKIT_E_TOOBIG  more than send_max: it can never fit
       NETKIT_E_NOMEM   no memory: the conn ends, for a stream must not lose
                        its middle
       NETKIT_E_CLOSED  you have closed it, or shut down this direction
       NETKIT_E_STALE   it is gone

   Most programs may ignore the result, because of what is next.

   Back-pressure is the default. While a conn's queue could not take one more
   full span, it gets no on_data. The peer's own data then waits in the kernel
   and TCP slows the peer down. So a handler that answers at most what it reads
   never sees NETKIT_E_FULL, and memory stays within send_max for each conn. A
   handler whose answers can be larger than the questions checks for FULL:
   return what was consumed so far, without the question that could not be
   answered; after the drain the rest is offered again.

   desc.conn.duplex switches this off, for programs in which reading and writing
   have nothing to do with each other. Then pausing is up to you. A proxy is

       static size_t on_data(...) {
           if (netkit_conn_send(loop, other, data, len) == NETKIT_E_FULL) {
               netkit_conn_pause(loop, conn);
               return 0;
           }
           return len;
       }
       static void on_drain(...) { netkit_conn_resume(loop, other); }

   Bytes go out when the callback returns, all that it queued in one system
   call; on other conns at the end of the turn; at once when 64 KiB have
   gathered. Sixteen small sends in a callback cost one system call, not
   sixteen, so there is no need to collect an answer in a buffer of your own.
   Between turns (in a game's frame, before a foreign loop waits)
   netkit_loop_flush sends all that is queued without calling anything back, and
   netkit_conn_flush does so for one conn.

       netkit_conn_sendv           several spans, as one
       netkit_conn_send_borrowed   no copy: the memory is lent until release is
                                   called, exactly once, in order, before
                                   on_close. When the call fails, release is not
                                   called and the memory is yours
       netkit_conn_queued          bytes that the system has not taken yet

   Something large goes out in pieces: send until FULL, keep the piece that was
   refused, go on with it in on_drain. netkit_conn_want_drain asks for on_drain
   without a refusal, for those who stop earlier. See examples/http_server.c.

   TCP_NODELAY is set unless desc.conn.no_nodelay: netkit gathers by itself.

   netkit_conn_send_file queues part of a file, which the system moves without a
   copy where it can, in order with the bytes around it. Large messages can be
   written in place: netkit_conn_reserve gives a place in the queue,
   netkit_conn_commit says how much of it was used. netkit_conn_cork holds back
   small pieces over several callbacks until 64 KiB are together or it is taken
   out; within one callback nobody needs it.


   CLOSING
   -------
       netkit_conn_close      gracefully: sends what is queued, ends our
                              direction, discards input until the peer ends its
                              own, then on_close
       netkit_conn_shutdown   ends only our direction, after what is queued;
                              receiving goes on
       netkit_conn_abort      at once, with a reset; what is queued is dropped

   Why close waits for the peer: a socket that is closed while input is unread
   sends a reset, and a reset can destroy the answer on its way. The wait is
   bounded by close_deadline_ms (5,000, for the whole close) and drain_max
   (1 MiB of discarded input). While a conn is closing, getters and abort work,
   a second close is NETKIT_OK, and all else gives NETKIT_E_CLOSED.

   The peer's half-close is on_eof, and sending still works afterwards. With
   on_eof NULL the conn is closed gracefully then, which is what most servers
   want. With on_eof set the closing is up to you.

   on_close gets the reason as a netkit_close_info:

       code      NETKIT_OK: a graceful close that reached its end on both sides;
                 else why not (NETKIT_E_RESET, NETKIT_E_TIMEOUT, ...)
       op        what was being done: CONNECT, READ, WRITE, TIMER, CLOSE, ...
       phase     how far it had come: CONNECTING, OPEN, CLOSING
       os_code   the system's own code, or 0
       text      a sentence
       unsent    bytes that send took and that never left this process

   and netkit_close_describe makes one line of it all.


   TIMEOUTS
   --------
   All in desc.conn; 0 is none, unless it says otherwise. loop_desc.timeouts sets
   what 0 means for connecting, idling and closing on all conns of a loop, and
   NETKIT_TIMEOUT_NONE in desc.conn.idle_timeout_ms is never, whatever it says.

       idle_timeout_ms     no byte either way for so long
       deadline_ms         so long after its start, whatever it does
       rate_min            fewer bytes received than this in rate_period_ms:
                           against peers that send a byte now and then
       close_deadline_ms   a graceful close (5,000)
       user_timeout_ms     sent data that the peer does not acknowledge (Linux)
       keepalive_s         probes after so many silent seconds: finds a peer
                           whose machine has vanished

   and timeout_ms in netkit_connect_desc for connecting (30,000). They end the
   conn; on_close says NETKIT_E_TIMEOUT and NETKIT_OP_TIMER. Traffic restarts
   the idle timeout by writing one number: it costs nothing.
   netkit_conn_set_idle_timeout and netkit_conn_set_deadline change them on the
   way; setting a deadline for each request, cleared when it has come in whole,
   is the cure for peers that send their request over an hour.


   TIMERS
   ------
       netkit_timer timer;
       netkit_timer_start(loop, &timer, 1500000, 0, fn, user);      // once
       netkit_timer_start(loop, &timer, 0, 20000, fn, user);        // 50 Hz

   Times are microseconds of a monotonic clock. A timer is never early; how late
   it may be is up to the system's waits: a millisecond where these count so
   (poll; epoll before Linux 5.11), its tick on Windows (15.6 ms unless some
   program has asked for less). Timers fire in the order of their due times, and
   with equal ones in the order of their start. A repeating timer keeps its
   phase: when the loop comes late it fires once and skips what it missed, so 50
   Hz stays 50 Hz without drift.

   The handle of a one-shot timer dies when its callback has returned, unless
   the callback restarts it. netkit_timer_restart moves a live timer and cannot
   fail; netkit_timer_stop is legal at any time, in its own callback too.

   netkit_loop_now is the clock, in nanoseconds; netkit_loop_turn_time the time of
   this turn's wait, which costs nothing to ask. (Timers take microseconds, limits
   in a desc say their unit in their name: _ms, _us, _s.)


   POSTS
   -----
   A message from any thread to a loop:

       static void on_result(netkit_loop *loop, int status, void *user) {
           job *j = (job *)user;
           if (status == NETKIT_OK) {
               netkit_conn_send(loop, j->conn, j->text, j->len);
           }
           free(j);                     // also when it was cancelled
       }
       ...
       while (netkit_loop_post(loop, on_result, j) == NETKIT_E_FULL) ...

   fn runs on the loop's thread, exactly once, in the order of each thread's
   posts. The loop is woken, once for many posts. The queue is bounded
   (posts_max, 4,096): NETKIT_E_FULL means that it was not taken. When the loop
   is destroyed, what still waits runs with NETKIT_E_CANCELLED. The caller must
   keep the loop alive during the call: join your threads before you destroy it.

   j->conn may have died while the job was under way; the send then gives
   NETKIT_E_STALE and nothing happens. That is what handles are for.

   netkit_loop_invoke is the same but runs fn at once when it is called on the
   loop's own thread.


   WATCHES AND EMBEDDING
   ---------------------
   A watch calls back when a descriptor of yours (a pipe, an eventfd, a socket
   of another library) can be read or written:

       netkit_watch_start(loop, &watch, (uintptr_t)fd, NETKIT_POLL_READ, fn, u);

   Level-triggered, unless you add NETKIT_POLL_EDGE (NETKIT_E_NOSYS with poll, afd
   and wsapoll). The descriptor stays yours: stop the watch before you close it.
   Regular files cannot be watched (NETKIT_E_ACCESS with epoll): they are always
   ready. On Windows nothing but sockets can.

   The other way round, a loop inside a foreign one (GLib, Qt, poll(2)):

       uintptr_t fd;
       netkit_loop_native(loop, &fd);
       for (;;) {
           wait until fd can be read, for netkit_loop_timeout_ms(loop) at most;
           netkit_loop_poll(loop, -1);
       }

   Ask for the timeout before each wait, and for the descriptor right behind
   netkit_loop_create: with uring it may be NETKIT_E_BUSY later. The backends poll
   and wsapoll have none (NETKIT_E_NOSYS): poll them every few milliseconds. With
   uring, epoll_wait and other waits of this thread may end with EINTR. See
   examples/embed.c.


   PULLING EVENTS (GAMES)
   ----------------------
   With pull in the loop's desc, whatever has no callback is fetched instead:

       netkit_event event;
       netkit_loop_poll(loop, 2000);            // at most 2 ms of this frame
       while (netkit_loop_next(loop, &event) > 0) {
           switch (event.type) {
           case NETKIT_EVENT_OPEN:  ...event.conn...          break;
           case NETKIT_EVENT_DATA:  ...event.data, event.len... break;
           case NETKIT_EVENT_CLOSE: ...event.close...         break;
           ...
           }
       }

   Each call does the next piece of the turn's work, so nothing is queued or
   copied; event.data lives until the next call. The bytes of a DATA event count
   as consumed unless netkit_loop_consume says less. Closing after an EOF event
   is up to you. netkit_loop_next gives 0 at the end of the turn, when all that
   was queued has been sent. Callbacks and events mix: what has a callback is
   called, from inside netkit_loop_next.

   netkit_loop_run gives NETKIT_E_BUSY on such a loop; netkit_loop_run_once
   waits, then you fetch. See examples/game_frame.c.


   MESSAGES AND SMALL PARTS
   ------------------------
   TCP carries bytes, not messages. A netkit_framing says where one ends (a
   length in a header of 8, 16 or 32 bits and either byte order, a delimiter, or
   a fixed size), and netkit_frame_next cuts what on_data got:

       while ((more = netkit_frame_next(&framing, data, len, &used, &frame)) > 0)
           handle(frame.data, frame.len);
       if (more < 0) netkit_conn_abort(loop, conn);    // too long, or nonsense
       return used;                 // a cut frame comes again with its rest

   {0} is a framing of 4 bytes of length; for lines of text zero it and set .kind
   to NETKIT_FRAME_DELIMITER.

   netkit_frame_send sends one, whole or not at all. A frame larger than size_max
   is refused when its length is known, before anything is kept. A frame waits
   in the conn's input until it is whole, so recv_max bounds it too.

   Four more parts need no loop and no socket. netkit_arena: many allocations,
   one release. netkit_fifo: a circular buffer of bytes, with is_secret for what
   must not stay in memory. netkit_slotmap: a program's own objects behind
   handles like netkit's. NETKIT_TRY: blocks over error codes, opt-in by
   #define NETKIT_WITH_TRY, exceptions in C++; read its traps first. All are bounded,
   and the first three take an allocator.


   UNIX SOCKETS AND DESCRIPTORS
   ----------------------------
   A listener on a path is one on any other address:

       desc.address = "unix:/run/x.sock";
       desc.unix_mode = 0660;       // from the first moment; 0 = the umask's
       desc.unix_replace = true;    // a file left over by a crash gives way

   unix_replace removes nothing but a socket's file that no socket is bound to.
   A server that is alive (listening or about to), and a file that is no socket,
   stay, and listening gives NETKIT_E_ADDRINUSE. When the listener closes, its
   file is removed, if it is still the one that it made; another's that has come
   to the same path is not (unix_keep leaves it in any case, for a successor
   that was handed the listening socket). A process that was forked off removes
   nothing. Relative paths are looked up anew: do not change the folder between.

       netkit_conn_credentials    pid, uid and gid of who connected, -1 where the
                                  system does not tell

   The credentials are those of the moment of connecting; a pid may be another
   process's by now. Decide by the uid.

   Open descriptors travel over unix conns, beside the bytes:

       netkit_conn_send_fds(loop, conn, "take\n", 5, &fd, 1);

   They are duplicated, so close yours when you like. A conn takes descriptors
   when desc.conn.fds_max says how many may wait (as it is 0, those that come
   are closed by the system). They come as a queue of their own:

       while (next_message(...)) {          // in on_data
           uintptr_t fd;
           if (netkit_conn_take_fd(loop, conn, &fd) == NETKIT_OK) ...
       }

   When on_data is shown the first byte of a message, the descriptors that were
   sent with it are in the queue; those of later messages may be too, so a
   message says how many are its. What you take is yours to close. A peer that
   sends more than fds_max ahead ends the conn with NETKIT_E_TOOBIG; when the
   process has no room for what comes, so that some are lost, it ends with
   NETKIT_E_TRUNCATED: the queue would be out of step.

   Plain sockets have netkit_socket_send_msg and netkit_socket_recv_msg for the
   same and more: the addresses of datagrams, the sender's credentials with each
   message (NETKIT_OPT_CREDENTIALS), other ancillary data of the system. What
   there is no room for is closed or dropped and flagged, and the next message is
   whole. netkit_socket_bind_unix is bind with a mode, and remembers the file for
   netkit_unix_unlink. netkit_socket_pair makes two connected sockets,
   netkit_unix_temp_path an address that nobody has.

   Never pass on the descriptor of a conn that you then close: closing ends the
   connection for all who hold it. See examples/unix_daemon.c.


   OPTIONS OF SOCKETS
   ------------------
   netkit_socket_set and netkit_socket_get take a NETKIT_OPT_ and an int, on each
   system the same; netkit_conn_set_option and netkit_listener_set_option do so
   in a loop, and each has a form with _text for what is a name. NETKIT_E_NOSYS:
   the system, or this kind of socket, has none such; NETKIT_E_INVALID: not a
   value of it. Read back what matters: systems round, and have limits.

       NODELAY, KEEPALIVE, KEEPALIVE_IDLE, _PERIOD, _COUNT, USER_TIMEOUT (Linux)
       RECV_BUFFER, SEND_BUFFER       in a loop: desc.conn.recv_buffer, send_buffer
       RECV_TIMEOUT, SEND_TIMEOUT     of blocking calls
       LINGER                         -1 = off, 0 = reset, else seconds
       REUSE_ADDR, REUSE_PORT, EXCLUSIVE_ADDR (Windows), V6ONLY
       FAST_OPEN, FAST_OPEN_CONNECT (Linux)
       CONGESTION                     a text, "cubic" (Linux)
       CREDENTIALS (Linux)            with each message on unix sockets
       BLOCKING, CLOSE_ON_EXEC, ERROR
       TTL, TOS, DONT_FRAGMENT, PATH_MTU, BROADCAST, MULTICAST_..., TELL_...: see
       DATAGRAMS

   A port is never shared unless every listener asks (reuse_port). exclusive in
   netkit_listen_desc also refuses one that has connections in TIME_WAIT.


   DATAGRAMS (UDP)
   ---------------
   A netkit_udp is a datagram socket in a loop. A whole echo server:

       static void echo(netkit_loop *loop, netkit_udp udp,
                        const netkit_datagram *in, void *user) {
           (void)user;
           netkit_udp_reply(loop, udp, in, in->data, in->len);
       }
       ...
       netkit_udp_desc desc = {0};
       desc.address = ":7010";              // every address, IPv6 and IPv4
       desc.handler.on_datagram = echo;
       netkit_udp_open(loop, &desc, &udp);

   netkit_datagram is one struct for both directions: data and len, the peer, the
   address of ours, the interface, TOS with its ECN bits, TTL, segment size, time.
   What is told beside data and peer is asked for in the desc (tell_local,
   tell_tos, tell_ttl, tell_time); a udp on a wildcard address is always told
   where a datagram came to, so that netkit_udp_reply answers from there.

       netkit_udp_send         to an address, or NULL: to desc.peer
       netkit_udp_reply        to who sent this one, from where it came to
       netkit_udp_send_batch   an array, with all that the struct can say; what
                               has come can be sent on as it is

     - Datagrams are copied and leave together, in order: when all that was
       received with one call has been handled, at the end of the turn, or when
       64 have gathered. netkit_udp_flush sends now.
     - An empty datagram is one like any other. One that was longer than
       recv_size is cut and has is_truncated set; the next one is intact.
     - NETKIT_E_FULL means that send_max bytes wait for the system; nothing was
       taken, and on_drain comes once when there is room. Many programs just drop
       the datagram then: that is what UDP is.
     - Errors end nothing. on_error tells which peer could not be reached (as
       ICMP says) and which datagram could not be sent, with its address and the
       system's code. Without on_error they are passed over, and not even asked
       for.
     - netkit_udp_close sends what the system takes at once; on_close counts the
       rest (info->unsent).

   For bulk, segments: with segment_size a datagram of up to 64 KiB stands for
   many, cut by the kernel or the card (GSO); desc.gro lets the kernel merge what
   arrives, and netkit cuts it again for on_datagram; desc.gro_whole hands it over
   whole, with its segment_size. Both ends together make 1,200-byte datagrams ten
   times cheaper and more. Where the system lacks one of them netkit does the same
   one by one; netkit_udp_caps tells. A plain socket has no queue, and gives
   NETKIT_E_NOSYS instead.

   Groups: bind to the port on a wildcard address, with desc.share if others on
   the machine do the same, then netkit_udp_join. Such a socket hears all groups
   that anybody on the machine has joined: compare in->local.
   NETKIT_OPT_MULTICAST_INTERFACE, _TTL and _LOOP say where what you send goes.

   Options of IP (netkit_udp_set_option, netkit_socket_set): NETKIT_OPT_TTL, _TOS,
   _DONT_FRAGMENT, _PATH_MTU, _BROADCAST.

   Plain sockets have netkit_socket_recv_datagrams and _send_datagrams, with the
   same struct. See examples/udp_echo.c, game_server.c, multicast_chat.c.


   ADDRESSES
   ---------
   netkit_addr is a plain value. The text forms, which netkit_addr_parse reads
   and desc.address takes:

       192.0.2.1:80        IPv4
       [2001:db8::1]:80    IPv6; [fe80::1%eth0]:80 with a zone
       :80                 every address of the machine, IPv6 and IPv4
       unix:/run/x         a unix socket's path
       unix:@x             a name in Linux's abstract space

   Port 0 when listening takes a free port; netkit_listener_local tells which.
   The parser is strict (no blanks, no leading zeros, no octal) and says where
   it stopped. netkit_addr_format writes what it reads back. Names of hosts are
   not addresses, and this version does not resolve them.


   PLAIN SOCKETS
   -------------
   netkit_socket is a socket of the system without a loop: for a blocking tool,
   a test, or a loop of one's own.

       netkit_addr addr;
       netkit_socket s;
       netkit_addr_parse(&addr, "127.0.0.1:7000", NULL);
       netkit_socket_open(&s, addr.family, NETKIT_SOCK_STREAM, 0);
       netkit_socket_connect(s, &addr, 2000);
       netkit_socket_send_all(s, "hello\n", 6, 2000, NULL);
       netkit_socket_recv_all(s, reply, 6, 2000, NULL);
       netkit_socket_close(&s);

   (each of them returns NETKIT_OK or an error that a program checks). send and
   recv move what can be moved now and give NETKIT_E_AGAIN when that is nothing;
   the _all calls move everything within a time. The end of a stream is
   NETKIT_E_EOF, not 0. Sockets are close-on-exec, never raise SIGPIPE, and are
   non-blocking unless opened with NETKIT_SOCKET_BLOCKING.

   netkit_adopt takes a connected socket into a loop, and desc.socket of
   netkit_listen_desc a listening one (socket activation).


   POLLER
   ------
   netkit_poller is the readiness interface below the loop, usable alone:
   create, add, modify, remove, wait, wake. It reports numbers of yours, not
   descriptors, so a program can tell a new descriptor from an old one with the
   same number. Level-triggered; NETKIT_POLL_EDGE and NETKIT_POLL_ONESHOT are
   asked for with each descriptor.

   Backends are chosen at run time, by netkit_poller_desc or netkit_loop_desc, and
   have the same names everywhere (netkit_backend_from_name): auto, fastest, epoll,
   uring, poll, kqueue, afd, wsapoll, sim. AUTO takes epoll on Linux, kqueue on
   macOS and BSD, afd on Windows, and poll or wsapoll where that fails; FASTEST
   tries io_uring first (loops alone); sim, a simulated network, is only a name
   yet. A backend that is named and missing is NETKIT_E_NOSYS, never another one
   in its place. netkit_loop_backend tells which one it is, and why.


   THE RING (IO_URING)
   -------------------
   On Linux 6.1 and later a loop can run on io_uring. Nothing changes in the
   program but one field:

       loop_desc.backend = NETKIT_BACKEND_FASTEST;   // the ring, or else epoll
       loop_desc.backend = NETKIT_BACKEND_URING;     // the ring, or an error

   netkit_loop_backend says which one it is, and in a sentence why ("io_uring
   refused: EPERM (1) at io_uring_setup (seccomp?), using epoll"); the same goes
   to the logger. Containers refuse it often, the sysctl
   kernel.io_uring_disabled too.

   It gains where many conns have small messages at the same time: one system
   call then serves dozens of them. With a few conns, or in bulk, epoll is as
   good. What a conn is told is the same on both, in the same order.

   Where a turn serves several conns, what their callbacks send, up to 4 KiB each,
   goes out together when all of them have returned. Before slow work in a
   callback call netkit_loop_flush.

   Receive buffers belong to the loop (256 of 8 KiB, made at first use), so an
   idle conn has none. A span that fills more than a quarter of its buffer is
   kept by netkit_conn_keep without a copy: the buffer goes with it and a new
   one takes its place, so keeping never takes from what others receive into. It
   counts against keep_max with its whole size.

   The datagrams of a udp whose recv_size is 7,792 or less, without gro, come into
   the same buffers by one receive for all of them; others are read by recvmmsg
   when a poll says so. A conn that is dialled within a callback connects with the
   loop's next wait.

   What differs, and what to know:

     - The kernel ties the ring to the thread that first runs the loop.
       netkit_loop_adopt moves the loop to another one with a new ring, and
       gives NETKIT_E_BUSY while operations are in flight: that is, while it has
       a listener, a conn or a watch. Create the loop on one thread and run it
       on another if you like; move it afterwards only when it is empty.
     - A forked child must not use the ring. Run there, the inherited loop gives
       nothing but errors; netkit_loop_destroy is legal in the child, closes its
       descriptors and does not disturb the parent. (The same holds for watches
       and conns on it: leave them alone.)
     - A sandbox (seccomp) that is put on later and refuses io_uring's calls ends
       netkit_loop_run with NETKIT_E_ACCESS; the loop can then be destroyed. One
       that kills ends the process at the next call. Threads that post to such a
       loop make one of them, too (io_uring_register, on Linux 6.13 and later).
     - Destroying a loop cancels what is in flight and waits for the kernel's
       word on it, for half a second of silence at most.
     - A signal that the loop's thread takes at the moment a peer's urgent byte
       (MSG_OOB) comes may put off what is behind that byte until the peer sends
       again: the kernel's receive looks there for SIGURG. Where peers do that,
       let signals go to other threads.
     - Of a crowd's large messages a turn of netkit_loop_run takes up eight conns',
       or a quarter, and leaves the others, with what is behind them, to the turns
       that follow at once, as bytes that wait leave the caches.
     - Ring memory counts against RLIMIT_MEMLOCK of an ordinary user; where that
       is low (64 KiB) the ring is made smaller.

   On request only, by fields of the loop's desc that other backends ignore:

       ring_sqpoll_ms      a thread of the kernel takes what is to be done
                           without being called, and sleeps after so long with
                           nothing to do. It eats a processor while it is awake
                           (ring_sqpoll_cpu: which); on few cores it costs more
                           than it brings. Each receive is then one of its own
                           instead of one that goes on.
       ring_napi_us        waits look at the network device for so long before
                           they sleep: latency for processor time, on drivers
                           that can.
       ring_zerocopy_min   memory lent with netkit_conn_send_borrowed, of so many
                           bytes or more, goes out of TCP conns without a copy;
                           release is called when the kernel has let go of it,
                           which is when the peer has acknowledged it. Loopback
                           copies all the same and pays for both (15 percent
                           slower), so a conn whose sends were copied goes back
                           to plain ones by itself. Worth it from some 100 KiB on
                           a real network.
       ring_incremental    receives share buffers, each taking only what it fills
                           (Linux 6.12): 64 of 8 KiB instead of 256, enough for
                           a thousand conns with a few bytes each. A trial at
                           creation finds kernels that have it wrong. Kept
                           bytes are copied then, and datagrams are read by calls.
       ring_files          the conns in so many first places of the loop are known
                           to the kernel by number (Linux 6.13), which spares it
                           looking descriptors up and costs a conn two calls. On
                           loopback no gain shows; measure before you keep it.
                           Places come 256 at a time and are used in turn: ask for
                           more than there are objects at once. What is more than
                           RLIMIT_NOFILE allows is halved until it fits.

   When the kernel gives no polling thread or no busy polling, there is no ring:
   NETKIT_E_NOSYS with the reason, or epoll with FASTEST. The others are not
   missed where they are not to be had.


   ERRORS
   ------
   Every call that can fail returns an int: NETKIT_OK (0) or a count, or a
   negative NETKIT_E_ code, the same on every system. NETKIT_ERRORS below lists
   them once, with a sentence for each and whether trying again can help:

       netkit_error_name(code)           "NETKIT_E_REFUSED"
       netkit_error_text(code)           "the connection was refused"
       netkit_error_is_retryable(code)   true

   Out-parameters are set to a safe value on failure: zero, or UINTPTR_MAX for a
   descriptor. Wrong arguments are NETKIT_E_INVALID, not a crash (but the arena, the
   fifo and the slot map trust theirs); a desc with impossible values creates
   nothing.
   The code of the operating system is kept beside ours where a conn ends
   (os_code), and is netkit_socket_os_code() right after a call on a plain
   socket.


   LOGGING AND DEBUG MODE
   ----------------------
   netkit prints nothing. With a logger in the loop's desc it tells you:

       static void log_line(int level, int id, const char *text, int os_code,
                            void *user) {
           (void)user;
           fprintf(stderr, "netkit %d/%d: %s (%d)\n", level, id, text, os_code);
       }
       ...
       loop_desc.logger.log = log_line;

   The ids (NETKIT_LOGIDS) are stable; the sentences are not. The logger must
   not call the loop.

   loop_desc.debug switches on a mode that teaches: a call from the wrong
   thread, a loop that is run inside its own callback, a handle still open at
   destroy, a callback that held the loop longer than slow_callback_ms, a
   refused send that was ignored on a duplex conn. Each is one log line with a
   hint.


   MEMORY
   ------
   A loop takes its memory from desc.allocator, or from malloc and free. free
   gets the size too. Conns, timers and the rest live in slabs that grow and are
   kept until the loop is destroyed; an idle conn holds no buffers, because the
   one receive buffer of 64 KiB belongs to the loop. (With the first udp a loop
   takes 1 MiB more to receive datagrams into. On io_uring it keeps the memory
   in which answers of up to 4 KiB wait for the end of the turn, as much as was
   once in use, 2.7 MiB at most.) In a steady state nothing is allocated. All
   queues are bounded:

       per conn   recv_max     unconsumed input              64 KiB
                  send_max     copied output                 256 KiB
                  chunks_max   borrowed chunks               1,024
       per udp    send_max     datagrams that wait           256 KiB
       per loop   objects_max  listeners, conns, udps, ...   1,048,576
                  timers_max                                 4,194,304
                  posts_max    posts that wait               4,096
                  keep_max     bytes kept by netkit_conn_keep  16 MiB

   listen_desc.conns_max bounds the conns of one listener; at the limit
   connections wait in the kernel's backlog.


   CONFIGURATION
   -------------
   Everything that has to do with behaviour is in a desc, at run time. What is
   left are macros for the file with NETKIT_IMPLEMENTATION. None of them changes
   a public struct or function, so other files need not know them.

       NETKIT_IMPLEMENTATION     put the implementation into this file
       NETKIT_STATIC             all functions static: for a library inside one
                                 file, or a program of one: what it does not call
                                 is not compiled, a third less to wait for. Only
                                 together with the implementation
       NETKIT_DLL                export from, or import from, a shared library
                                 (this one also where netkit.h is only included)
       NETKIT_API                instead of the two: your own decoration
       NETKIT_ASSERT(cond)       instead of assert; NDEBUG switches that off
       NETKIT_MALLOC(size)       instead of malloc and free, both or neither;
       NETKIT_FREE(memory)       desc.allocator comes before them
       NETKIT_NO_THREADS         no pthreads; one thread only
       NETKIT_NO_URING           no io_uring backend
       NETKIT_FORCE_KQUEUE       for testing: on Linux, the backend kqueue over
                                 libkqueue (its headers and library are yours to
                                 give), and what else macOS does otherwise

   No environment variable is read.


   PLATFORM NOTES
   --------------
   This version is built and tested on Linux with glibc, as C99 and as C++11 and
   later, with gcc and clang. For Windows it is built with MinGW-w64 and tested
   under wine alone; MSVC has not compiled it (clang has checked it for MSVC's
   target).

       backend   system    remarks
       epoll     Linux     the default there; edge-triggered inside
       poll      POSIX     slower with many conns; no descriptor for embedding
       uring     Linux     io_uring by raw system calls, kernel 6.1 or later;
                           by name, or where it works with FASTEST. See THE RING
       kqueue    macOS,    the default there; edge-triggered inside. Compiled
                 FreeBSD   and linked for macOS 11, not yet run on either; its
                           tests run on Linux over libkqueue
       afd       Windows   the default there: the driver behind Winsock, by way
                           of a completion port. Run under wine, not yet on
                           Windows itself
       wsapoll   Windows   documented calls alone; slower with many conns; no
                           descriptor for embedding. Run under wine, too

   Windows: a socket's descriptor is its SOCKET, a file's its HANDLE. In the file
   with NETKIT_IMPLEMENTATION include netkit.h, or winsock2.h, before windows.h.
   Winsock is begun and ended by each loop and poller, and begun for good by the
   first calls that make plain sockets. What is bound is exclusive, streams and
   datagrams; reuse_port is NETKIT_E_NOSYS. A socket pair is one of TCP, or of UDP,
   on the loopback. Unix sockets are of streams with a path, where the system has
   them (wine has not, so nobody has seen them work); descriptors are not handed
   over (NETKIT_E_NOSYS), and a file is sent through a buffer. Whether a socket
   is blocking is not told. Datagrams tell neither their time nor whom an ICMP
   report is about; time to live and type of service go with the socket, and with
   a single datagram only where the system takes them.

   macOS has no call that makes a descriptor close-on-exec at birth: one may
   leak into a program that another thread starts at that moment. With kqueue
   NETKIT_POLL_PRIORITY is NETKIT_E_NOSYS where the system has no EVFILT_EXCEPT
   (FreeBSD).

   Linux: unix sockets in the abstract space; user_timeout_ms;
   netkit_listen_desc.reuse_port balances between listeners.


   LIMITS
   ------
   What is not there yet: names of hosts (DNS), TLS, more than one loop behind one
   listener without reuse_port. One loop holds at most 16,777,215 objects and as
   many timers. A blocking call in a callback (a disk, a resolver) holds up
   everything on that loop: use a thread and a post.


   VERSIONING
   ----------
   NETKIT_VERSION_NUMBER is major * 10000 + minor * 100 + patch, and
   netkit_version() what the implementation was compiled with. Versions below
   1.0.0 may change the API with the minor number. There is no promise of an
   ABI: compile netkit.h with your program.


   FUNCTION INDEX
   --------------
   version
       netkit_version
   loop, posts, watches
       netkit_loop_create                 netkit_loop_destroy
       netkit_loop_run                    netkit_loop_run_once
       netkit_loop_poll                   netkit_loop_stop
       netkit_loop_flush                  netkit_loop_adopt
       netkit_loop_post                   netkit_loop_invoke
       netkit_loop_is_owner               netkit_loop_is_running
       netkit_loop_backend                netkit_loop_user
       netkit_loop_ext                    netkit_loop_now
       netkit_loop_turn_time              netkit_loop_turns
       netkit_loop_objects                netkit_loop_references
       netkit_loop_native                 netkit_loop_timeout_ms
       netkit_watch_start                 netkit_watch_set
       netkit_watch_stop                  netkit_watch_set_referenced
   timers
       netkit_timer_start                 netkit_timer_restart
       netkit_timer_stop                  netkit_timer_remaining
       netkit_timer_set_referenced
   listeners and conns
       netkit_close_describe              netkit_listen
       netkit_listener_close              netkit_listener_local
       netkit_listener_set_referenced     netkit_connect
       netkit_listener_set_option         netkit_listener_get_option
       netkit_listener_set_option_text    netkit_listener_get_option_text
       netkit_adopt                       netkit_conn_send
       netkit_conn_sendv                  netkit_conn_send_borrowed
       netkit_conn_send_file              netkit_conn_reserve
       netkit_conn_commit                 netkit_conn_cork
       netkit_conn_want_drain
       netkit_conn_flush                  netkit_conn_pause
       netkit_conn_resume                 netkit_conn_shutdown
       netkit_conn_close                  netkit_conn_abort
       netkit_conn_queued                 netkit_conn_unread
       netkit_conn_phase                  netkit_conn_local
       netkit_conn_remote                 netkit_conn_native
       netkit_conn_set_option             netkit_conn_get_option
       netkit_conn_set_option_text        netkit_conn_get_option_text
       netkit_conn_send_fds               netkit_conn_take_fd
       netkit_conn_credentials
       netkit_conn_user                   netkit_conn_set_user
       netkit_conn_ext                    netkit_conn_set_handler
       netkit_conn_set_idle_timeout       netkit_conn_set_deadline
       netkit_conn_set_referenced         netkit_conn_keep
       netkit_buf_release
   pulling events
       netkit_loop_next                   netkit_loop_consume
   messages and small parts
       netkit_frame_next                  netkit_frame_header
       netkit_frame_send                  netkit_arena_alloc
       netkit_arena_alloc_array           netkit_arena_copy
       netkit_arena_reset                 netkit_arena_free
       netkit_fifo_len                    netkit_fifo_write
       netkit_fifo_read                   netkit_fifo_peek
       netkit_fifo_consume                netkit_fifo_reserve
       netkit_fifo_front                  netkit_fifo_straighten
       netkit_fifo_space                  netkit_fifo_commit
       netkit_fifo_clear                  netkit_fifo_free
       netkit_wipe                        netkit_slotmap_create
       netkit_slotmap_destroy             netkit_slotmap_add
       netkit_slotmap_find                netkit_slotmap_remove
       netkit_slotmap_count               netkit_slotmap_next
   datagrams
       netkit_udp_open                    netkit_udp_close
       netkit_udp_send                    netkit_udp_reply
       netkit_udp_send_batch              netkit_udp_flush
       netkit_udp_pause                   netkit_udp_resume
       netkit_udp_join                    netkit_udp_leave
       netkit_udp_caps                    netkit_udp_local
       netkit_udp_remote                  netkit_udp_queued
       netkit_udp_native                  netkit_udp_set_option
       netkit_udp_get_option              netkit_udp_user
       netkit_udp_set_user                netkit_udp_ext
       netkit_udp_set_referenced          netkit_socket_recv_datagrams
       netkit_socket_send_datagrams       netkit_socket_join
       netkit_socket_leave                netkit_socket_datagram_caps
   addresses
       netkit_addr_parse                  netkit_addr_parse_n
       netkit_addr_format                 netkit_addr_format_ip
       netkit_addr_equal                  netkit_addr_hash
       netkit_addr_from_ip                netkit_addr_from_path
   plain sockets
       netkit_socket_open                 netkit_socket_pair
       netkit_socket_from_native          netkit_socket_native
       netkit_socket_bind                 netkit_socket_listen
       netkit_socket_listen_on            netkit_socket_accept
       netkit_socket_connect              netkit_socket_connect_result
       netkit_socket_send                 netkit_socket_recv
       netkit_socket_sendv                netkit_socket_send_all
       netkit_socket_recv_all             netkit_socket_wait
       netkit_socket_send_file            netkit_socket_send_file_all
       netkit_socket_shutdown             netkit_socket_close
       netkit_socket_reset                netkit_socket_local
       netkit_socket_remote               netkit_socket_set
       netkit_socket_get                  netkit_socket_os_code
       netkit_socket_set_text             netkit_socket_get_text
       netkit_socket_recvv                netkit_socket_sendv_all
       netkit_socket_recvv_all            netkit_socket_send_msg
       netkit_socket_recv_msg             netkit_socket_credentials
       netkit_socket_bind_unix            netkit_unix_unlink
       netkit_unix_temp_path
   backends and poller
       netkit_backend_name                netkit_backend_from_name
       netkit_poller_create               netkit_poller_destroy
       netkit_poller_add                  netkit_poller_modify
       netkit_poller_remove               netkit_poller_wait
       netkit_poller_wake                 netkit_poller_backend
   errors
       netkit_error_name                  netkit_error_text
       netkit_error_is_retryable          netkit_error_from_os
*/

/* ---- src/api/feature.h ---- */
/* Feature macros must come before the first system header of the file, so they
 * stand outside the include guard, in the implementing file only. */
#if defined(NETKIT_IMPLEMENTATION) && defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* NOLINT(bugprone-reserved-identifier): glibc's own name */
#endif
#if defined(NETKIT_IMPLEMENTATION) && defined(__APPLE__) && !defined(__APPLE_USE_RFC_3542)
#define __APPLE_USE_RFC_3542 1 /* NOLINT(bugprone-reserved-identifier): IPV6_HOPLIMIT and others */
#endif
#if defined(NETKIT_IMPLEMENTATION) && defined(_WIN32) && !defined(_WIN32_WINNT)
#define _WIN32_WINNT 0x0A00 /* NOLINT(bugprone-reserved-identifier): Windows 10, of its headers */
#endif
#ifndef NETKIT_H
#define NETKIT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* ---- src/api/config.h ---- */
/* ---- version and linkage ------------------------------------------------- */

#define NETKIT_VERSION_MAJOR 0
#define NETKIT_VERSION_MINOR 1
#define NETKIT_VERSION_PATCH 0
#define NETKIT_VERSION_STRING "0.1.0"
#define NETKIT_VERSION_NUMBER \
    (NETKIT_VERSION_MAJOR * 10000 + NETKIT_VERSION_MINOR * 100 + NETKIT_VERSION_PATCH)

#if defined(NETKIT_STATIC) && !defined(NETKIT_IMPLEMENTATION) && \
    !defined(NETKIT_IMPLEMENTATION_DONE)
#error "NETKIT_STATIC is for the file that defines NETKIT_IMPLEMENTATION"
#endif

#ifndef NETKIT_API
#if defined(_MSC_VER) && !defined(__clang__) && defined(NETKIT_STATIC)
#define NETKIT_API static
#elif defined(NETKIT_STATIC)
#define NETKIT_API static __attribute__((unused))
#elif defined(_WIN32) && defined(NETKIT_DLL) && defined(NETKIT_IMPLEMENTATION)
#define NETKIT_API __declspec(dllexport)
#elif defined(_WIN32) && defined(NETKIT_DLL)
#define NETKIT_API __declspec(dllimport)
#elif defined(NETKIT_DLL)
#define NETKIT_API __attribute__((visibility("default"))) extern
#else
#define NETKIT_API extern
#endif
#endif

/* The NETKIT_VERSION_NUMBER the implementation was compiled with.
 * Thread: any. */
NETKIT_API int netkit_version(void);

/* ---- src/api/error.h ---- */
/* ---- errors --------------------------------------------------------------
 *
 * A call returns NETKIT_OK (0), a count of 0 or more, or one of these negative
 * codes. They are the same on every system; the code of the operating system is
 * kept beside them where there is one. X(name, value, text, retryable): a
 * retryable failure may go away by itself, so trying again later can help. */
#define NETKIT_ERRORS(X)                                                               \
    X(NETKIT_E_INVALID,       -1,  "an argument is not valid",                      0) \
    X(NETKIT_E_NOMEM,         -2,  "out of memory or kernel buffers",               1) \
    X(NETKIT_E_AGAIN,         -3,  "nothing to do now, try again when ready",       1) \
    X(NETKIT_E_FULL,          -4,  "a queue or table is full for now",              1) \
    X(NETKIT_E_TOOBIG,        -5,  "larger than the limit can ever take",           0) \
    X(NETKIT_E_EOF,           -6,  "the peer ended the stream",                     0) \
    X(NETKIT_E_RESET,         -7,  "the peer reset the connection",                 1) \
    X(NETKIT_E_REFUSED,       -8,  "the connection was refused",                    1) \
    X(NETKIT_E_TIMEOUT,       -9,  "the time allowed is over",                      1) \
    X(NETKIT_E_CANCELLED,     -10, "cancelled before it was done",                  0) \
    X(NETKIT_E_STALE,         -11, "the handle names nothing that is alive",        0) \
    X(NETKIT_E_CLOSED,        -12, "already closed or closing",                     0) \
    X(NETKIT_E_BUSY,          -13, "not allowed at this moment",                    0) \
    X(NETKIT_E_THREAD,        -14, "called on the wrong thread",                    0) \
    X(NETKIT_E_TRUNCATED,     -15, "cut short before its end",                      0) \
    X(NETKIT_E_NOSYS,         -16, "not available on this system or build",         0) \
    X(NETKIT_E_EXISTS,        -17, "already there",                                 0) \
    X(NETKIT_E_NOTFOUND,      -18, "not there",                                     0) \
    X(NETKIT_E_ADDRINUSE,     -19, "the address is in use",                         1) \
    X(NETKIT_E_ADDRNOTAVAIL,  -20, "the address is not one of this machine's",      0) \
    X(NETKIT_E_UNREACHABLE,   -21, "no route to the host or network",               1) \
    X(NETKIT_E_ACCESS,        -22, "permission denied",                             0) \
    X(NETKIT_E_MFILE,         -23, "no descriptor left in the process or system",   1) \
    X(NETKIT_E_NOTCONN,       -24, "the socket is not connected",                   0) \
    X(NETKIT_E_ABORTED,       -25, "the connection was aborted on this machine",    1) \
    X(NETKIT_E_INTERRUPTED,   -26, "interrupted by a signal",                       1) \
    X(NETKIT_E_IO,            -27, "an error of the system without a code of ours", 0)

typedef enum netkit_error {
    NETKIT_OK = 0,
#define NETKIT_ERRORS_ENUM(name, value, text, retryable) name = value,
    NETKIT_ERRORS(NETKIT_ERRORS_ENUM)
#undef NETKIT_ERRORS_ENUM
    NETKIT_E_LAST_ = -27
} netkit_error;

/* Name of a code ("NETKIT_E_TIMEOUT"); "NETKIT_OK" for 0 and every count,
 * "NETKIT_E_UNKNOWN" for a number that is no code. Static memory.
 * Thread: any. */
NETKIT_API const char *netkit_error_name(int code);

/* One phrase in English for a code. Static memory. Thread: any. */
NETKIT_API const char *netkit_error_text(int code);

/* Whether trying the same again later can help. Thread: any. */
NETKIT_API bool netkit_error_is_retryable(int code);

/* Map a code of the operating system (errno, or WSAGetLastError on Windows) to
 * a netkit code; 0 gives NETKIT_OK, an unknown one NETKIT_E_IO.
 * Thread: any. */
NETKIT_API int netkit_error_from_os(int os_code);

/* ---- src/api/memory.h ---- */
/* ---- memory, log, clock: what a program may replace ----------------------- */

/* Memory for one loop or object. Leave all zero for malloc and free (or what
 * NETKIT_MALLOC and NETKIT_FREE say). `alloc` returns memory aligned for any
 * type, or NULL; `free` gets the size that was asked for. Both are called on the
 * thread of the loop only; free also where netkit_buf_release says so. */
typedef struct netkit_allocator {
    void *user;
    void *(*alloc)(size_t size, void *user);
    void (*free)(void *memory, size_t size, void *user);
} netkit_allocator;

enum {
    NETKIT_LOG_ERROR = 1,
    NETKIT_LOG_WARN = 2,
    NETKIT_LOG_INFO = 3,
    NETKIT_LOG_DEBUG = 4
};

/* A log line: level, a stable id (NETKIT_LOGID_*), a sentence valid during the
 * call, and the code of the operating system or 0. Called on the thread of the
 * loop (the hint about a wrong thread: on that one); must not call the loop back.
 * NULL = silence: netkit never prints. */
typedef struct netkit_logger {
    void *user;
    void (*log)(int level, int id, const char *text, int os_code, void *user);
} netkit_logger;

/* Ids of log lines. */
#define NETKIT_LOGIDS(X)                                                                       \
    X(NETKIT_LOGID_BACKEND,         1,  "the backend chosen and why")                          \
    X(NETKIT_LOGID_ACCEPT,          2,  "accepting failed and backs off")                      \
    X(NETKIT_LOGID_WRONG_THREAD,    3,  "a call came from a thread the loop is not owned by")  \
    X(NETKIT_LOGID_NESTED_RUN,      4,  "the loop was run from inside one of its callbacks")   \
    X(NETKIT_LOGID_LEAKED_HANDLE,   5,  "an object was still open at netkit_loop_destroy")     \
    X(NETKIT_LOGID_SLOW_CALLBACK,   6,  "a callback held the loop for too long")               \
    X(NETKIT_LOGID_IGNORED_SEND,    7,  "a refused send was ignored by a duplex connection")   \
    X(NETKIT_LOGID_OS_ERROR,        8,  "a system call failed that should not")

enum {
#define NETKIT_LOGIDS_ENUM(name, value, text) name = value,
    NETKIT_LOGIDS(NETKIT_LOGIDS_ENUM)
#undef NETKIT_LOGIDS_ENUM
    NETKIT_LOGID_LAST_ = 8
};

/* A clock of one's own, for tests: nanoseconds that never go back. All zero =
 * the monotonic clock of the system. */
typedef struct netkit_clock {
    void *user;
    uint64_t (*now_ns)(void *user);
} netkit_clock;

/* A span of bytes that somebody else owns. */
typedef struct netkit_span {
    const void *data;
    size_t len;
} netkit_span;

/* Room for bytes that a call fills. */
typedef struct netkit_room {
    void *data;
    size_t len;
} netkit_room;

/* ---- src/api/addr.h ---- */
/* ---- addresses -----------------------------------------------------------
 *
 * netkit_addr is a plain value: copy it, keep it, compare it with
 * netkit_addr_equal (not memcmp). Never a struct sockaddr. The IPv4 peer of a
 * socket that takes IPv6 and IPv4 reads as plain IPv4. */

enum {
    NETKIT_AF_NONE = 0, /* the zero value: no address */
    NETKIT_AF_IPV4 = 1,
    NETKIT_AF_IPV6 = 2,
    NETKIT_AF_UNIX = 3
};

enum {
    NETKIT_UNIX_PATH_MAX = 108, /* bytes of storage; the limit of the system may be lower */
    NETKIT_ADDR_TEXT_MAX = 512  /* enough for any address netkit_addr_format writes, with its NUL */
};

typedef struct netkit_addr {
    uint8_t family;   /* NETKIT_AF_* */
    uint8_t path_len; /* unix: bytes used of path; an abstract name counts no '@' */
    bool is_abstract; /* unix: a name in Linux's abstract space, not a file */
    bool is_any;      /* made from ":port": every address, IPv6 and IPv4 where the system can */
    uint16_t port;    /* IP: host byte order */
    uint32_t scope;   /* IPv6: interface index for link-local addresses, or 0 */
    uint8_t ip[16];   /* IPv4 uses the first four */
    char path[NETKIT_UNIX_PATH_MAX]; /* unix: not NUL-terminated */
} netkit_addr;

/* Read an address from text:
 *   "192.0.2.1:80"  "[2001:db8::1]:80"  "[fe80::1%eth0]:80"  "[fe80::1%2]:80"
 *   ":80"           every address of the machine, IPv4 and IPv6
 *   "unix:/run/x"   a path      "unix:@name"   an abstract name (Linux)
 * Strict: four decimal parts without leading zeros, ports 0 to 65535 in plain
 * digits, no white space, no names of hosts (those need a resolver). A path has
 * no control characters; in an abstract name "\xHH" is any byte. A zone in plain
 * digits from 1 is an interface's number, any other its name.
 * On failure *out is zeroed, and *error_at (may be NULL) is the offset of the
 * first character that cannot be part of an address (the length when it is too
 * short); for NOTFOUND that of the zone. On success it is the length.
 * Returns NETKIT_OK; NETKIT_E_INVALID; NETKIT_E_TOOBIG for a path over the limit
 * of the system (Linux 107 bytes, macOS and BSD 103); NETKIT_E_NOTFOUND for a
 * zone that names no interface; NETKIT_E_NOSYS for an abstract name where there
 * are none.
 * Pointers are used during the call only. Thread: any. */
NETKIT_API int netkit_addr_parse(netkit_addr *out, const char *text, size_t *error_at);

/* The same for `len` bytes that need no NUL at their end; a NUL among them is
 * NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_addr_parse_n(netkit_addr *out, const char *text, size_t len,
                                   size_t *error_at);

/* Write an address as the text netkit_addr_parse reads back to an equal value
 * (RFC 5952 for IPv6; a zone as its number). What is not plain text in an
 * abstract name, and a control character in a path, appears as "\xHH"; the
 * latter alone does not read back. A path that begins with '@' gets "./" in
 * front; the unnamed end of a unix connection is "unix:", which parse refuses.
 * Returns the length without the NUL, NETKIT_E_TOOBIG (text is then ""), or
 * NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_addr_format(const netkit_addr *addr, char *text, size_t size);

/* The IP of an address alone, without brackets and port, with its zone; a unix
 * address has none (NETKIT_E_INVALID). Otherwise as netkit_addr_format.
 * Thread: any. */
NETKIT_API int netkit_addr_format_ip(const netkit_addr *addr, char *text, size_t size);

/* Whether two addresses are the same place: an IPv4 address equals its
 * v4-mapped IPv6 form; ports and scopes count, and ":80" is not "[::]:80".
 * Nothing equals NULL. Thread: any. */
NETKIT_API bool netkit_addr_equal(const netkit_addr *a, const netkit_addr *b);

/* A hash that agrees with netkit_addr_equal, keyed by `seed` (use a random one
 * for tables that strangers can fill). Thread: any. */
NETKIT_API uint64_t netkit_addr_hash(const netkit_addr *addr, uint64_t seed);

/* Make an address from parts. `ip` is 4 or 16 bytes in network order, copied;
 * `scope` is 0 for IPv4, v4-mapped too. On failure *out is zeroed.
 * Returns NETKIT_OK or NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_addr_from_ip(netkit_addr *out, const void *ip, size_t ip_len, uint16_t port,
                                   uint32_t scope);

/* Make a unix address from `len` bytes of path (no NUL among them) or of an
 * abstract name (any bytes). On failure *out is zeroed.
 * Returns NETKIT_OK, NETKIT_E_INVALID, NETKIT_E_TOOBIG or NETKIT_E_NOSYS.
 * Thread: any. */
NETKIT_API int netkit_addr_from_path(netkit_addr *out, const char *path, size_t len,
                                     bool is_abstract);

/* ---- src/api/socket.h ---- */
/* ---- plain sockets --------------------------------------------------------
 *
 * A socket of the operating system without hidden state, for blocking programs
 * and for loops of one's own. Close-on-exec always, SIGPIPE never. A socket is
 * non-blocking unless opened with NETKIT_SOCKET_BLOCKING; the calls below that
 * take a timeout wait by themselves either way.
 * "Thread: the socket's." means any thread, one at a time for each socket, but that
 * one may send while another receives. Calls that wait must not be made inside a
 * loop's callback: they would stop everything else on that loop.
 * All give NETKIT_E_INVALID for {0} (but close and reset) and for a NULL that is not
 * said to be legal, and pass on what the system says as NETKIT_E_*, of which their
 * comments list what is to be expected. Pointers are used during the call only. */

typedef struct netkit_socket {
    uintptr_t value; /* the system's descriptor plus one: {0} is no socket */
} netkit_socket;

enum {
    NETKIT_SOCK_STREAM = 0,
    NETKIT_SOCK_DGRAM = 1
};

enum {
    NETKIT_SOCKET_BLOCKING = 1,   /* open: leave the socket blocking */
    NETKIT_SOCKET_REUSE_PORT = 2, /* bind: several sockets share the port; NOSYS where it cannot
                                     balance */
    NETKIT_SOCKET_V6ONLY = 4,     /* bind: an IPv6 wildcard takes no IPv4 */
    NETKIT_SOCKET_NO_REUSE = 8,   /* bind: not even over connections in TIME_WAIT */
    NETKIT_SOCKET_REPLACE = 16    /* bind, unix: in place of a socket's file that nobody has bound
                                     any more; what is alive or no socket stays */
};

enum {
    NETKIT_SPANS_MAX = 64 /* pieces in one gathered send or scattered receive */
};

enum {
    NETKIT_SHUT_READ = 1,
    NETKIT_SHUT_WRITE = 2,
    NETKIT_SHUT_BOTH = 3
};

/* Options of a socket: integers, booleans as 0 and 1, one of them a text. What
 * the system has not, or not for this kind of socket, is NETKIT_E_NOSYS. */
typedef enum netkit_option {
    NETKIT_OPT_NODELAY = 1,      /* TCP: send small segments at once */
    NETKIT_OPT_KEEPALIVE,        /* probe a silent peer */
    NETKIT_OPT_KEEPALIVE_IDLE,   /* seconds of silence before the first probe */
    NETKIT_OPT_KEEPALIVE_PERIOD, /* seconds between probes */
    NETKIT_OPT_KEEPALIVE_COUNT,  /* probes lost before the connection is */
    NETKIT_OPT_USER_TIMEOUT,     /* ms that sent data may stay unacknowledged (Linux) */
    NETKIT_OPT_REUSE_ADDR,       /* POSIX: bind over TIME_WAIT. Windows: of datagrams alone, which
                                    then share a port */
    NETKIT_OPT_EXCLUSIVE_ADDR,   /* Windows: nobody else binds the port */
    NETKIT_OPT_REUSE_PORT,       /* several sockets share a port */
    NETKIT_OPT_V6ONLY,           /* an IPv6 socket takes no IPv4 */
    NETKIT_OPT_BLOCKING,         /* calls wait; on Windows it can be set, not asked */
    NETKIT_OPT_CLOSE_ON_EXEC,    /* not inherited by a program that is started */
    NETKIT_OPT_ERROR,            /* read only: pending error as a netkit code, cleared by reading */
    NETKIT_OPT_RECV_BUFFER,      /* bytes the system holds until they are received: it has limits,
                                    and Linux doubles the number. Before listening or connecting */
    NETKIT_OPT_SEND_BUFFER,      /* the same for bytes to be sent */
    NETKIT_OPT_RECV_TIMEOUT,     /* ms until a blocking call that receives or accepts gives up with
                                    NETKIT_E_AGAIN, 0 = never; rounded up to ticks */
    NETKIT_OPT_SEND_TIMEOUT,     /* the same for one that sends */
    NETKIT_OPT_LINGER,           /* seconds that close waits until all is sent; 0 = it resets;
                                    -1 = it does not wait, and sending goes on (the default) */
    NETKIT_OPT_FAST_OPEN,        /* TCP, listening: how many may wait whose first segment brought
                                    data, 0 = none */
    NETKIT_OPT_FAST_OPEN_CONNECT, /* TCP, before connecting: the first data goes with the first
                                     segment; it is sending that then says what is wrong (Linux) */
    NETKIT_OPT_CREDENTIALS,       /* unix: messages tell who sent them (Linux) */
    NETKIT_OPT_CONGESTION,        /* text. TCP: the congestion control, "cubic", "bbr" (Linux) */

    /* Of IP, most of them for datagrams. On an IPv6 socket that takes IPv4 they hold for both. */
    NETKIT_OPT_BROADCAST = 100,     /* may send to broadcast addresses */
    NETKIT_OPT_TTL,                 /* time to live, hop limit: 1 to 255 */
    NETKIT_OPT_TOS,                 /* type of service, traffic class: 0 to 255, ECN in the low
                                       two bits */
    NETKIT_OPT_DONT_FRAGMENT,       /* 1: never cut, too large is TOOBIG; 2: nor mind the known
                                       path MTU; 0: the system's way */
    NETKIT_OPT_PATH_MTU,            /* read only: to the connected peer */
    NETKIT_OPT_MULTICAST_TTL,       /* how far multicasts go: 0 this machine, 1 (the default) this
                                       network, ... 255 */
    NETKIT_OPT_MULTICAST_LOOP,      /* multicasts we send come to this machine, too (at first on) */
    NETKIT_OPT_MULTICAST_INTERFACE, /* index of the interface they leave by, 0 = any; of
                                       IPv4 it cannot be read */
    NETKIT_OPT_GRO,                 /* received datagrams are merged: segment_size */
    NETKIT_OPT_TELL_LOCAL,          /* what netkit_datagram tells of those received: local, ... */
    NETKIT_OPT_TELL_TOS,
    NETKIT_OPT_TELL_TTL,
    NETKIT_OPT_TELL_TIME,
    NETKIT_OPT_TELL_ERRORS
} netkit_option;

/* Open a socket. `family` is NETKIT_AF_*, `type` NETKIT_SOCK_*, `flags` 0 or
 * NETKIT_SOCKET_BLOCKING. *out is {0} on failure.
 * Returns NETKIT_OK, NETKIT_E_INVALID, NETKIT_E_NOSYS, NETKIT_E_MFILE,
 * NETKIT_E_NOMEM, NETKIT_E_ACCESS. Thread: any. */
NETKIT_API int netkit_socket_open(netkit_socket *out, int family, int type, int flags);

/* Two connected sockets (unix where there are, IP over loopback elsewhere). `type`,
 * `flags` and errors as for open; both are {0} on failure. Thread: any. */
NETKIT_API int netkit_socket_pair(netkit_socket out[2], int type, int flags);

/* Wrap a descriptor of the system, or give it out. Ownership does not change:
 * whoever closes it last loses. UINTPTR_MAX and {0} are each other.
 * Thread: any. */
NETKIT_API netkit_socket netkit_socket_from_native(uintptr_t native);
NETKIT_API uintptr_t netkit_socket_native(netkit_socket s);

/* Bind to an address; `flags` are NETKIT_SOCKET_REUSE_PORT, _V6ONLY, _NO_REUSE,
 * _REPLACE. A unix address without a path takes a name of the system's choice
 * (Linux).
 * SO_REUSEADDR is set for streams (exclusive use on Windows): restarting a
 * server works, stealing its port does not. Port 0 takes a free one: read it
 * back with netkit_socket_local.
 * Returns NETKIT_OK, NETKIT_E_ADDRINUSE, NETKIT_E_ADDRNOTAVAIL, NETKIT_E_ACCESS,
 * NETKIT_E_NOSYS (also for another family), NETKIT_E_INVALID (bound already), ...
 * Thread: the socket's. */
NETKIT_API int netkit_socket_bind(netkit_socket s, const netkit_addr *addr, int flags);

/* Listen; backlog 0 = the most the system takes. NETKIT_E_ADDRINUSE; NETKIT_E_NOSYS
 * for datagrams. Thread: the socket's. */
NETKIT_API int netkit_socket_listen(netkit_socket s, int backlog);

/* Open, bind and listen in one call: a stream socket for `addr` (an address
 * made from ":port" gives one IPv6 socket that takes IPv4 too, or an IPv4 one
 * where there is no IPv6). `flags` as for bind, and NETKIT_SOCKET_BLOCKING. When
 * it fails no file of a unix path is left either, and *out is {0}.
 * Thread: any. */
NETKIT_API int netkit_socket_listen_on(netkit_socket *out, const netkit_addr *addr, int flags,
                                       int backlog);

/* Take one waiting connection; *peer (may be NULL) is its address. The new
 * socket is non-blocking and close-on-exec, and the caller's to close.
 * Returns NETKIT_OK; NETKIT_E_AGAIN: none waits; NETKIT_E_ABORTED: that one is
 * gone, try the next; NETKIT_E_MFILE or NETKIT_E_NOMEM: back off; others are
 * final. Thread: the socket's. */
NETKIT_API int netkit_socket_accept(netkit_socket s, netkit_socket *out, netkit_addr *peer);

/* Connect within timeout_ms (negative: no limit; 0: start, and NETKIT_E_AGAIN
 * means under way: wait until it can be written, then ask
 * netkit_socket_connect_result, which gives the same codes). After a failure the
 * socket is only good for closing. Returns NETKIT_OK, NETKIT_E_REFUSED,
 * NETKIT_E_TIMEOUT, NETKIT_E_UNREACHABLE, NETKIT_E_FULL (the backlog of a unix listener, which no
 * waiting shows: try again later), ... While a blocking socket connects with a
 * timeout it is non-blocking, for others who hold it too; on Windows it stays so
 * after a timeout of 0, and is not touched by another. Thread: the socket's. */
NETKIT_API int netkit_socket_connect(netkit_socket s, const netkit_addr *addr, int timeout_ms);
NETKIT_API int netkit_socket_connect_result(netkit_socket s);

/* Send or receive what can be moved now. Return the count (1 or more, 0 only
 * for len 0 or an empty datagram), NETKIT_E_AGAIN, NETKIT_E_EOF (recv of a
 * stream), NETKIT_E_RESET (also for sending after the end of our direction), ...
 * Counts are at most INT_MAX. Thread: the socket's. */
NETKIT_API int netkit_socket_send(netkit_socket s, const void *data, size_t len);
NETKIT_API int netkit_socket_recv(netkit_socket s, void *data, size_t len);

/* Gathered send, scattered receive: at most NETKIT_SPANS_MAX pieces,
 * NETKIT_E_INVALID for more. Thread: the socket's. */
NETKIT_API int netkit_socket_sendv(netkit_socket s, const netkit_span *spans, size_t count);
NETKIT_API int netkit_socket_recvv(netkit_socket s, const netkit_room *rooms, size_t count);

/* Move all of `len` bytes within timeout_ms (negative: no limit). *done (may be
 * NULL) is what was moved, on failure too.
 * Returns NETKIT_OK, NETKIT_E_TIMEOUT, NETKIT_E_EOF, NETKIT_E_RESET, ...
 * Thread: the socket's. */
NETKIT_API int netkit_socket_send_all(netkit_socket s, const void *data, size_t len, int timeout_ms,
                                      size_t *done);
NETKIT_API int netkit_socket_recv_all(netkit_socket s, void *data, size_t len, int timeout_ms,
                                      size_t *done);

/* Send part of a plain file (a native descriptor; a HANDLE on Windows) without
 * copying it through the program, where the system can: `len` bytes from `offset`,
 * NETKIT_FILE_END = up to its end. The file's own position is neither used nor
 * changed. send_file sends what can be sent now and returns the count, as
 * netkit_socket_send; the other all of it within timeout_ms, *done (may be NULL)
 * being what was sent, on failure too.
 * NETKIT_E_TRUNCATED: the file has fewer bytes. Thread: the socket's. */
#define NETKIT_FILE_END UINT64_MAX
NETKIT_API int netkit_socket_send_file(netkit_socket s, uintptr_t file, uint64_t offset,
                                       uint64_t len);
NETKIT_API int netkit_socket_send_file_all(netkit_socket s, uintptr_t file, uint64_t offset,
                                           uint64_t len, int timeout_ms, uint64_t *done);

/* netkit_socket_send_all and _recv_all for any number of pieces. Streams only: a
 * datagram of so many parts is netkit_socket_sendv's. Thread: the socket's. */
NETKIT_API int netkit_socket_sendv_all(netkit_socket s, const netkit_span *spans, size_t count,
                                       int timeout_ms, size_t *done);
NETKIT_API int netkit_socket_recvv_all(netkit_socket s, const netkit_room *rooms, size_t count,
                                       int timeout_ms, size_t *done);

/* Wait until the socket can be read and/or written (NETKIT_POLL_READ,
 * NETKIT_POLL_WRITE) or timeout_ms is over (negative: no limit; 0: only look).
 * Returns the NETKIT_POLL_* that hold, or NETKIT_E_TIMEOUT. Thread: the socket's. */
NETKIT_API int netkit_socket_wait(netkit_socket s, int events, int timeout_ms);

/* End one direction or both (NETKIT_SHUT_*). NETKIT_E_NOTCONN. Thread: the socket's. */
NETKIT_API int netkit_socket_shutdown(netkit_socket s, int how);

/* Close. *s becomes {0}; closing {0} is NETKIT_OK. Never repeated on EINTR: the
 * descriptor is gone even then (close(2)). Thread: the socket's. */
NETKIT_API int netkit_socket_close(netkit_socket *s);

/* Close with a reset instead of an orderly end (SO_LINGER 0). Otherwise as close.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_reset(netkit_socket *s);

/* Addresses of both ends, written to the caller's *out, which is zeroed on failure.
 * NETKIT_E_NOTCONN: there is no other end. Thread: the socket's. */
NETKIT_API int netkit_socket_local(netkit_socket s, netkit_addr *out);
NETKIT_API int netkit_socket_remote(netkit_socket s, netkit_addr *out);

/* Set and get an option that is a number. NETKIT_E_NOSYS where the system has
 * none such, NETKIT_E_INVALID for a value out of its range; *value is 0 on failure.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_set(netkit_socket s, netkit_option option, int value);
NETKIT_API int netkit_socket_get(netkit_socket s, netkit_option option, int *value);

/* The same for one that is a text (NETKIT_OPT_CONGESTION). Setting gives
 * NETKIT_E_NOTFOUND for a name that the system does not know, NETKIT_E_ACCESS for
 * one that is not for everybody. Getting writes the text with its NUL and returns
 * its length, or NETKIT_E_TOOBIG (text is then ""). Thread: the socket's. */
NETKIT_API int netkit_socket_set_text(netkit_socket s, netkit_option option, const char *value);
NETKIT_API int netkit_socket_get_text(netkit_socket s, netkit_option option, char *text,
                                      size_t size);

/* The code of the operating system behind the last failure of a socket call on
 * this thread (errno, WSAGetLastError): ask at once, any other call may change
 * it. Thread: any; each has its own. */
NETKIT_API int netkit_socket_os_code(void);

/* ---- src/api/unix.h ---- */
/* ---- messages and unix sockets ----------------------------------------------
 *
 * What plain sockets move beside bytes: the address of a datagram, open
 * descriptors and the sender's credentials (unix sockets), other ancillary data
 * of the system. And what unix sockets have beside their messages: a file, and a
 * peer on the same machine. Windows 10 and later has unix sockets of streams with
 * a path (NETKIT_E_NOSYS where it has not), and no descriptors or credentials in
 * messages. See the head of "plain sockets" for threads and NETKIT_E_INVALID. */

enum {
    NETKIT_FDS_MAX = 253,    /* descriptors in one message: the most that Linux takes */
    NETKIT_CONTROL_MAX = 512 /* bytes of other ancillary data in one message */
};

/* Who somebody is; each is -1 where the system does not tell. */
typedef struct netkit_credentials {
    int64_t pid;
    int64_t uid;
    int64_t gid;
} netkit_credentials;

/* A message to send; all zero but what is wanted. */
typedef struct netkit_message_out {
    const netkit_span *spans; /* its bytes, at most NETKIT_SPANS_MAX pieces */
    size_t spans_count;
    const netkit_addr *to; /* a datagram's destination, NULL = the connected peer */
    const uintptr_t *fds;  /* descriptors to hand over; they stay open here as well */
    size_t fds_count;      /* at most NETKIT_FDS_MAX */
    const void *control;   /* other ancillary data, laid out as CMSG_DATA(3) says */
    size_t control_len;    /* at most NETKIT_CONTROL_MAX */
} netkit_message_out;

/* Send a message. A stream may take less than all of the bytes: what comes beside
 * them went with the first one, so send the rest as plain bytes. With descriptors
 * a stream needs one byte at least.
 * Returns the bytes taken; NETKIT_E_AGAIN; NETKIT_E_TOOBIG: a larger datagram, or
 * more beside it, than there can be; NETKIT_E_MFILE: too many descriptors are on
 * their way already; NETKIT_E_NOSYS: not on this kind of socket or
 * system; NETKIT_E_INVALID; ... as netkit_socket_send. Thread: the socket's. */
NETKIT_API int netkit_socket_send_msg(netkit_socket s, const netkit_message_out *msg);

/* Room for a message, and what came. */
typedef struct netkit_message_in {
    const netkit_room *rooms; /* for its bytes, at most NETKIT_SPANS_MAX pieces */
    size_t rooms_count;
    uintptr_t *fds; /* room for descriptors; those that come are the caller's to close,
                                 and close-on-exec */
    size_t fds_max;
    void *control; /* room for other ancillary data */
    size_t control_max;
    /* Written by the call: */
    size_t fds_count;
    size_t control_len;
    netkit_addr from;          /* who sent a datagram; NETKIT_AF_NONE on a stream */
    netkit_credentials sender; /* with NETKIT_OPT_CREDENTIALS, else all -1 */
    bool is_cut;               /* the datagram was longer than the room; the rest is gone */
    bool is_fds_cut;           /* descriptors came that are closed again: there was no room in fds,
                                 or none in the process (NETKIT_E_MFILE) */
    bool is_control_cut;       /* other ancillary data came that is gone */
} netkit_message_in;

/* Receive a message, or what there is of a stream; on a stream descriptors come no
 * later than the first byte they were sent with. What does not fit is closed or
 * dropped and said, it never leaks, and the next message is whole.
 * Returns the bytes received (0 for an empty datagram), NETKIT_E_AGAIN,
 * NETKIT_E_EOF, ... as netkit_socket_recv; on failure nothing has come.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_recv_msg(netkit_socket s, netkit_message_in *msg);

/* Who is at the other end of a unix stream: who they were when they connected, or
 * listened, whatever they are now; Windows tells the process alone. *out is all -1
 * on failure.
 * Returns NETKIT_OK; NETKIT_E_NOTCONN; NETKIT_E_NOSYS: not a unix socket, or the
 * system does not tell. Thread: the socket's. */
NETKIT_API int netkit_socket_credentials(netkit_socket s, netkit_credentials *out);

/* The file that binding to a unix path has made, for taking it away again. */
typedef struct netkit_unix_file {
    uint64_t device; /* of the system: which file it is, whatever is at its path later */
    uint64_t inode;  /* both 0: none */
    netkit_addr addr;
} netkit_unix_file;

/* Bind to a unix path as netkit_socket_bind, with the file's permissions: `mode`
 * (0660, ...; 0 = what the umask leaves) holds from the moment there is a file, so
 * nobody slips in; NETKIT_E_NOSYS on Windows, where they are the folder's. `flags`
 * is 0 or NETKIT_SOCKET_REPLACE. *file (may be NULL) is for netkit_unix_unlink; for
 * an abstract name it is none, and the rest means nothing.
 * When it fails no file is left. Errors as for netkit_socket_bind.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_bind_unix(netkit_socket s, const netkit_addr *addr, int flags,
                                       uint32_t mode, netkit_unix_file *file);

/* Remove that file if it is still there, before its socket is closed (until then no
 * other file can be mistaken for it). Whatever else has come to its path stays.
 * *file becomes all zero then, and doing it again is NETKIT_OK.
 * Returns NETKIT_OK; NETKIT_E_NOTFOUND: nothing is there; NETKIT_E_STALE: something
 * else is; NETKIT_E_ACCESS, ... Thread: any, one at a time for each file. */
NETKIT_API int netkit_unix_unlink(netkit_unix_file *file);

/* An address for a socket nobody has: a random name in `folder`, NULL = "/tmp", or
 * the user's own for such files on Windows. Nothing is created. *out is zeroed on
 * failure.
 * Returns NETKIT_OK; NETKIT_E_TOOBIG: no path so long; what the system's random
 * numbers failed with. Thread: any. */
NETKIT_API int netkit_unix_temp_path(netkit_addr *out, const char *folder);

/* ---- src/api/poller.h ---- */
/* ---- poller ---------------------------------------------------------------
 *
 * Readiness of descriptors of one's own: sockets, pipes, eventfds. Usable
 * without a loop. "Thread: the poller's." means any thread, one at a time for each
 * poller. A NULL that is not said to be legal is NETKIT_E_INVALID. */

/* The first six are Linux's own numbers, so that its backends translate nothing. */
enum {
    NETKIT_POLL_READ = 1,          /* can be read, or a listener can accept */
    NETKIT_POLL_PRIORITY = 2,      /* urgent data */
    NETKIT_POLL_WRITE = 4,         /* can be written, or connect has ended */
    NETKIT_POLL_ERROR = 8,         /* reported always: an error waits */
    NETKIT_POLL_HANGUP = 16,       /* reported always: both directions are over */
    NETKIT_POLL_PEER_END = 0x2000, /* with READ: the peer will send no more */
    NETKIT_POLL_EDGE = 0x10000,    /* ask: report changes only (NETKIT_E_NOSYS where it cannot) */
    NETKIT_POLL_ONESHOT = 0x20000  /* ask: report once, then keep silent until modified */
};

/* Backends, the same names everywhere; which exist depends on the system. */
typedef enum netkit_backend {
    NETKIT_BACKEND_AUTO = 0,    /* epoll, kqueue or afd; else poll or wsapoll */
    NETKIT_BACKEND_FASTEST = 1, /* io_uring where it works, else as AUTO */
    NETKIT_BACKEND_EPOLL = 2,
    NETKIT_BACKEND_URING = 3,
    NETKIT_BACKEND_POLL = 4,
    NETKIT_BACKEND_KQUEUE = 5,
    NETKIT_BACKEND_AFD = 6,
    NETKIT_BACKEND_WSAPOLL = 7,
    NETKIT_BACKEND_SIM = 8 /* a simulated network: not in this version */
} netkit_backend;

/* "auto", "fastest", "epoll", "uring", "poll", "kqueue", "afd", "wsapoll",
 * "sim"; NULL for any other number. Static memory. Thread: any. */
NETKIT_API const char *netkit_backend_name(int backend);

/* The other way; NETKIT_E_NOTFOUND for an unknown name. Thread: any. */
NETKIT_API int netkit_backend_from_name(const char *name);

typedef struct netkit_poller netkit_poller;

typedef struct netkit_poller_desc {
    int backend;                /* a readiness backend, 0 = AUTO */
    netkit_allocator allocator; /* all zero = malloc */
} netkit_poller_desc;

typedef struct netkit_poll_event {
    uint64_t data;   /* as given to add or modify */
    uint32_t events; /* NETKIT_POLL_* */
} netkit_poll_event;

/* Make a poller; desc NULL = defaults. A backend that is named and missing is
 * NETKIT_E_NOSYS, never another one. *out is NULL on failure.
 * Returns NETKIT_OK, NETKIT_E_NOSYS, NETKIT_E_NOMEM, NETKIT_E_MFILE, NETKIT_E_INVALID.
 * Thread: any. */
NETKIT_API int netkit_poller_create(netkit_poller **out, const netkit_poller_desc *desc);

/* Free it. The descriptors stay open. NULL is legal. Thread: the poller's. */
NETKIT_API void netkit_poller_destroy(netkit_poller *poller);

/* Watch a descriptor (a native one: netkit_socket_native gives a socket's) for
 * NETKIT_POLL_READ and WRITE, plus EDGE or ONESHOT. Level-triggered unless EDGE.
 * NETKIT_E_EXISTS when it is there already, NETKIT_E_INVALID when it is no
 * descriptor (on Windows, no socket: nothing else can be watched there),
 * NETKIT_E_ACCESS when the backend cannot watch that kind of file,
 * NETKIT_E_NOSYS for PRIORITY with kqueue where the system does not tell it.
 * Thread: the poller's. */
NETKIT_API int netkit_poller_add(netkit_poller *poller, uintptr_t native, uint32_t events,
                                 uint64_t data);

/* Change what is watched, and the data. NETKIT_E_NOTFOUND when it is not there; else
 * as add. Thread: the poller's. */
NETKIT_API int netkit_poller_modify(netkit_poller *poller, uintptr_t native, uint32_t events,
                                    uint64_t data);

/* Stop watching: before closing the descriptor. NETKIT_E_NOTFOUND when it is
 * not there. Thread: the poller's. */
NETKIT_API int netkit_poller_remove(netkit_poller *poller, uintptr_t native);

/* Wait up to timeout_us (negative: for ever; 0: only look) and write at most
 * `max` events. Returns how many; 0 after the time, a wake or a signal.
 * Thread: the poller's. */
NETKIT_API int netkit_poller_wait(netkit_poller *poller, netkit_poll_event *events, int max,
                                  int64_t timeout_us);

/* Make a wait that is under way, or else the next one, return. Wakes that come
 * before it does are one. Thread: any, and signal handlers. */
NETKIT_API int netkit_poller_wake(netkit_poller *poller);

/* The name of the backend. Static memory. NULL for NULL. Thread: any. */
NETKIT_API const char *netkit_poller_backend(const netkit_poller *poller);

/* ---- src/api/loop.h ---- */
/* ---- loop -----------------------------------------------------------------
 *
 * One loop per thread does I/O, timers and posts, and calls back. It belongs to
 * the first thread that runs, polls or waits on it; before that to whoever holds
 * it. A desc is copied; what its pointers lead to is used during the call only,
 * unless a field says otherwise.
 *
 * A comment that ends in "Thread: the loop's." is of a call for that thread alone.
 * Beside what it lists such a call gives NETKIT_E_THREAD on any other one, where it
 * does nothing; NETKIT_E_INVALID for a NULL that is not said to be legal;
 * NETKIT_E_STALE for a handle whose object is gone; and, when it makes something,
 * NETKIT_E_CLOSED while the loop is being destroyed. One that returns a pointer
 * gives NULL instead. "Unchecked": it cannot tell the thread, and gives 0, NULL or
 * "" for a loop that is NULL. Calls for any thread need the loop alive until they
 * return. */

typedef struct netkit_loop netkit_loop;

/* Handles name what lives in a loop. They are plain values; {0} names nothing;
 * a handle whose object is gone gives NETKIT_E_STALE, never a crash. */
typedef struct netkit_conn {
    uint64_t id;
} netkit_conn;
typedef struct netkit_listener {
    uint64_t id;
} netkit_listener;
typedef struct netkit_timer {
    uint64_t id;
} netkit_timer;
typedef struct netkit_watch {
    uint64_t id;
} netkit_watch;

typedef void (*netkit_loop_hook_fn)(netkit_loop *loop, void *user);

/* Time limits of all conns of a loop: each is what 0 means in the desc of a conn,
 * where any other value comes first and NETKIT_TIMEOUT_NONE switches it off. */
typedef struct netkit_timeouts {
    uint32_t connect_ms; /* connecting, 0 = 30,000; cannot be switched off */
    uint32_t idle_ms;    /* no byte either way, 0 = never */
    uint32_t close_ms;   /* a whole graceful close, 0 = 5,000; cannot be switched off */
} netkit_timeouts;

#define NETKIT_TIMEOUT_NONE UINT32_MAX

typedef struct netkit_loop_desc {
    int backend;                /* NETKIT_BACKEND_*, 0 = AUTO */
    uint32_t objects_max;       /* listeners, conns, watches, udps together, 0 = 1,048,576 */
    uint32_t timers_max;        /* 0 = 4,194,304 */
    uint32_t events_max;        /* kernel events taken in one turn, 0 = 256 */
    uint32_t posts_max;         /* posts that may wait, 0 = 4,096; rounded up to a power of two */
    uint32_t conn_budget;       /* bytes a conn or udp may read in one turn, 0 = 262,144; a
                                   datagram counts 512 at least */
    uint32_t accept_budget;     /* connections a listener may accept in one turn, 0 = 64 */
    uint32_t post_budget;       /* posts run in one turn, 0 = 1,024 */
    uint32_t timer_budget;      /* timers fired in one turn, 0 = 4,096 */
    uint32_t keep_max;          /* bytes netkit_conn_keep may hold at a time, 0 = 16 MiB */
    uint32_t spin_us;           /* look this long before blocking: latency for CPU, 0 = off */
    uint32_t ext_size;          /* bytes of netkit_loop_ext, 0 = none */
    uint32_t slow_callback_ms;  /* debug: a callback slower than this is logged, 0 = 50 */
    bool pull;                  /* events are fetched with netkit_loop_next */
    bool debug;                 /* log mistakes with a hint */
    netkit_timeouts timeouts;   /* of its conns, unless theirs say otherwise */
    uint32_t ring_sqpoll_ms;    /* io_uring: a thread of the kernel submits, and sleeps when idle
                                   for so long; costs a processor, 0 = off */
    uint32_t ring_sqpoll_cpu;   /* the processor that thread is bound to, from 1; 0 = any */
    uint32_t ring_napi_us;      /* io_uring: waits poll the network device for so long, 0 = off */
    uint32_t ring_zerocopy_min; /* io_uring: lent memory of so many bytes or more goes out without
                                   a copy, where the kernel can, 0 = never */
    bool ring_incremental;      /* io_uring: receives share buffers, each taking only what it fills,
                                   where the kernel can; not with ring_sqpoll_ms */
    uint32_t ring_files;        /* io_uring: so many conns at most are known to the kernel by
                                   number, where it can, 0 = none */
    uint64_t seed;              /* first generations of handles, 0 = random */
    netkit_loop_hook_fn before_turn; /* called before a turn waits */
    netkit_loop_hook_fn after_turn;  /* called when a turn is done */
    void *user;                      /* for the two hooks, and netkit_loop_user */
    netkit_allocator allocator;
    netkit_logger logger;
    netkit_clock clock;
} netkit_loop_desc;

/* Make a loop; desc NULL or all zero = defaults. *out is NULL on failure.
 * Returns NETKIT_OK; NETKIT_E_NOSYS when the named backend is missing (never
 * another one instead); NETKIT_E_NOMEM, NETKIT_E_MFILE, NETKIT_E_INVALID.
 * Thread: any. */
NETKIT_API int netkit_loop_create(netkit_loop **out, const netkit_loop_desc *desc);

/* The loop's last turn: aborts what is open, runs waiting posts with
 * NETKIT_E_CANCELLED, delivers every release and on_close, then frees. NULL is
 * legal. In a forked child it leaves the parent's conns and sets alone.
 * Returns NETKIT_OK; NETKIT_E_BUSY inside a callback of this loop.
 * Thread: the loop's. */
NETKIT_API int netkit_loop_destroy(netkit_loop *loop);

/* Run until netkit_loop_stop, or until nothing that counts is left: no
 * listener, conn, udp, watch, timer (but those unreferenced) and no post.
 * Returns NETKIT_OK; NETKIT_E_BUSY inside a callback of this loop or with
 * desc.pull; what the system said when waiting failed again and again.
 * Thread: the loop's. */
NETKIT_API int netkit_loop_run(netkit_loop *loop);

/* One turn, waiting at most timeout_ms for something to do (negative: no
 * limit). With desc.pull: wait, then fetch with netkit_loop_next.
 * Returns 1 when work is left or, with pull, when events can be fetched, else 0;
 * NETKIT_E_BUSY inside a callback; what the system said when waiting failed again
 * and again. Thread: the loop's. */
NETKIT_API int netkit_loop_run_once(netkit_loop *loop, int timeout_ms);

/* Turns that never wait, for at most budget_us (the callback that is running
 * when it ends is finished): for a frame of a game. budget_us 0 is one callback
 * at most; negative: one whole turn. With desc.pull it begins a turn, and
 * netkit_loop_next gives events until the turn or the budget ends.
 * Returns 1 when work is left, 0 when all is done; NETKIT_E_BUSY inside a
 * callback; what the system said when waiting failed again and again.
 * Thread: the loop's. */
NETKIT_API int netkit_loop_poll(netkit_loop *loop, int64_t budget_us);

/* Make the run that is under way return after its turn, or else the next one.
 * Thread: any, and signal handlers. */
NETKIT_API int netkit_loop_stop(netkit_loop *loop);

/* Send now what is queued on every conn and udp, calling nothing back. For between
 * turns: a turn does it by itself. Thread: the loop's. */
NETKIT_API int netkit_loop_flush(netkit_loop *loop);

/* Make the calling thread the owner of a loop that nobody is running: its owner
 * must be done with it, and stays away from it from then on.
 * Returns NETKIT_OK; NETKIT_E_BUSY while it is running, and with io_uring while
 * operations are in flight, that is, while it has a conn, listener or watch;
 * NETKIT_E_NOSYS in a forked child; NETKIT_E_NOMEM; NETKIT_E_INVALID.
 * Thread: the one that shall own it. */
NETKIT_API int netkit_loop_adopt(netkit_loop *loop);

/* Called on the loop's thread with NETKIT_OK, or NETKIT_E_CANCELLED when the
 * loop is being destroyed. */
typedef void (*netkit_post_fn)(netkit_loop *loop, int status, void *user);

/* Have `fn` called by the loop, once, in the order of one thread's posts. The
 * loop is woken, once for many. `user` is the caller's until fn has run.
 * Returns NETKIT_OK; NETKIT_E_FULL: desc.posts_max are waiting; NETKIT_E_CLOSED:
 * the loop is being destroyed; NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_loop_post(netkit_loop *loop, netkit_post_fn fn, void *user);

/* As netkit_loop_post, but runs fn at once when called on the thread that owns the
 * loop. Thread: any. */
NETKIT_API int netkit_loop_invoke(netkit_loop *loop, netkit_post_fn fn, void *user);

/* Whether the caller is the thread that owns the loop; nobody does before the first
 * run, poll or wait, or netkit_loop_adopt. Thread: any. */
NETKIT_API bool netkit_loop_is_owner(const netkit_loop *loop);

/* Whether a run, poll or turn is under way. Thread: the loop's, unchecked. */
NETKIT_API bool netkit_loop_is_running(const netkit_loop *loop);

/* The backend's name; *why (may be NULL) says in a sentence how it was chosen.
 * Both live as long as the loop. Thread: the loop's, unchecked. */
NETKIT_API const char *netkit_loop_backend(const netkit_loop *loop, const char **why);

/* desc.user. Thread: the loop's, unchecked. */
NETKIT_API void *netkit_loop_user(const netkit_loop *loop);

/* The loop's own ext_size bytes: zeroed at first, aligned to 16, there until the
 * loop is destroyed; NULL for ext_size 0. Thread: the loop's, unchecked. */
NETKIT_API void *netkit_loop_ext(netkit_loop *loop);

/* Time of the loop's clock in nanoseconds: fresh, or as of this turn's wait.
 * Thread: the loop's, unchecked. */
NETKIT_API uint64_t netkit_loop_now(netkit_loop *loop);
NETKIT_API uint64_t netkit_loop_turn_time(const netkit_loop *loop);

/* How many turns there have been. Thread: the loop's, unchecked. */
NETKIT_API uint64_t netkit_loop_turns(const netkit_loop *loop);

/* What is alive: all objects, and those that keep netkit_loop_run going.
 * Thread: the loop's, unchecked. */
NETKIT_API uint32_t netkit_loop_objects(const netkit_loop *loop);
NETKIT_API uint32_t netkit_loop_references(const netkit_loop *loop);

/* For a loop inside a foreign one: wait until *native can be read (a
 * descriptor; on Windows a HANDLE to wait for) or netkit_loop_timeout_ms is
 * over, then call netkit_loop_poll. Wait level-triggered, and do not read it. It
 * belongs to the loop and keeps its number, but is another file after
 * netkit_loop_adopt: add it to an epoll set again then.
 * With uring ask right after netkit_loop_create, as another kind of ring is made
 * for it; epoll_wait and other waits of this thread may end with EINTR from then.
 * Returns NETKIT_OK; NETKIT_E_NOSYS where the backend has none (poll, wsapoll);
 * with uring NETKIT_E_BUSY when operations are under way or in a callback, or the
 * system's error when that ring cannot be made. Thread: the loop's. */
NETKIT_API int netkit_loop_native(netkit_loop *loop, uintptr_t *native);

/* Milliseconds until the loop wants to be polled, rounded up: 0 now, -1 never
 * by itself. Ask before each wait. Thread: the loop's. */
NETKIT_API int netkit_loop_timeout_ms(netkit_loop *loop);

/* ---- watches: descriptors of one's own in the loop ------------------------ */

/* `events` are NETKIT_POLL_*. */
typedef void (*netkit_watch_fn)(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user);

/* Call fn when the descriptor (a pipe, an eventfd, a socket of another library)
 * is ready for NETKIT_POLL_READ and/or WRITE; level-triggered unless EDGE. The
 * descriptor stays the caller's: stop the watch before closing it. `out` may be
 * NULL; fn, too, with desc.pull.
 * Returns NETKIT_OK, NETKIT_E_EXISTS, NETKIT_E_INVALID, NETKIT_E_ACCESS,
 * NETKIT_E_NOSYS (EDGE, PRIORITY), NETKIT_E_FULL, NETKIT_E_NOMEM.
 * Thread: the loop's. */
NETKIT_API int netkit_watch_start(netkit_loop *loop, netkit_watch *out, uintptr_t native,
                                  uint32_t events, netkit_watch_fn fn, void *user);

/* Change what is watched for; 0 = nothing for now. Errors as for start.
 * Thread: the loop's. */
NETKIT_API int netkit_watch_set(netkit_loop *loop, netkit_watch watch, uint32_t events);

/* End the watch at once; its callback does not come again. Thread: the loop's. */
NETKIT_API int netkit_watch_stop(netkit_loop *loop, netkit_watch watch);

/* Whether the watch keeps netkit_loop_run going (at first it does).
 * Thread: the loop's. */
NETKIT_API int netkit_watch_set_referenced(netkit_loop *loop, netkit_watch watch, bool referenced);

/* ---- src/api/timer.h ---- */
/* ---- timers ---------------------------------------------------------------
 *
 * NETKIT_E_STALE, _THREAD, _INVALID and _CLOSED of these calls: see the head of
 * "loop". */

typedef void (*netkit_timer_fn)(netkit_loop *loop, netkit_timer timer, void *user);

/* Call fn after delay_us, then every period_us (0: once). Never early; in order
 * of due time, then of start. A repeating timer keeps its phase: when the loop
 * comes late it fires once and skips what it missed. The handle of a one-shot
 * timer dies when its callback returns, unless that has restarted it. `out` may
 * be NULL; fn, too, with desc.pull. Delays over 2^62 ns are taken as that.
 * Returns NETKIT_OK, NETKIT_E_FULL, NETKIT_E_NOMEM. Thread: the loop's. */
NETKIT_API int netkit_timer_start(netkit_loop *loop, netkit_timer *out, uint64_t delay_us,
                                  uint64_t period_us, netkit_timer_fn fn, void *user);

/* Set the next firing to delay_us from now; a period counts from there.
 * Allocates nothing and cannot fail on a live timer. Thread: the loop's. */
NETKIT_API int netkit_timer_restart(netkit_loop *loop, netkit_timer timer, uint64_t delay_us);

/* End a timer at once, in its own callback too. Thread: the loop's. */
NETKIT_API int netkit_timer_stop(netkit_loop *loop, netkit_timer timer);

/* Microseconds until it fires next, rounded up, to *out_us; 0 in the callback of a
 * one-shot. Thread: the loop's. */
NETKIT_API int netkit_timer_remaining(netkit_loop *loop, netkit_timer timer, uint64_t *out_us);

/* Whether the timer keeps netkit_loop_run going (at first it does).
 * Thread: the loop's. */
NETKIT_API int netkit_timer_set_referenced(netkit_loop *loop, netkit_timer timer, bool referenced);

/* ---- src/api/conn.h ---- */
/* ---- connections ----------------------------------------------------------
 *
 * A conn is a stream in a loop: accepted, dialled or adopted. Its handle stays
 * valid until on_close has returned. NETKIT_E_STALE, _THREAD, _INVALID and _CLOSED
 * of the calls whose thread is the loop's: see the head of "loop". */

/* What was being done when a conn ended. */
typedef enum netkit_op {
    NETKIT_OP_NONE = 0,
    NETKIT_OP_OPEN,    /* making the socket */
    NETKIT_OP_CONNECT, /* connecting */
    NETKIT_OP_ACCEPT,  /* accepting, by a listener */
    NETKIT_OP_READ,    /* receiving */
    NETKIT_OP_WRITE,   /* sending */
    NETKIT_OP_CLOSE,   /* an end that was asked for: close, abort, destroy */
    NETKIT_OP_TIMER    /* a timeout, deadline or minimum rate */
} netkit_op;

/* How far a conn had come. */
typedef enum netkit_phase {
    NETKIT_PHASE_CONNECTING = 1, /* no on_open yet */
    NETKIT_PHASE_OPEN = 2,
    NETKIT_PHASE_CLOSING = 3 /* netkit_conn_close was called */
} netkit_phase;

/* Why a conn ended: "op failed with code (os_code) in phase". */
typedef struct netkit_close_info {
    int code;     /* NETKIT_OK: a graceful close that reached its end on both sides */
    int os_code;  /* the system's code behind it, or 0 */
    netkit_op op; /* what ended it */
    netkit_phase phase;
    const char *text; /* a sentence in static memory */
    size_t unsent;    /* bytes that send took and that never left this machine's process */
} netkit_close_info;

/* The whole reason as one sentence with its numbers. Returns its length as
 * snprintf does, or NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_close_describe(const netkit_close_info *info, char *text, size_t size);

/* One table of callbacks for each behaviour; conns share it. NULL = default. */
typedef struct netkit_handler {
    /* Ready for application data. */
    void (*on_open)(netkit_loop *loop, netkit_conn conn, void *user);

    /* Bytes have come; `data` lives until the return. Returns how many were
     * used: the rest is kept and comes again with more behind it.
     * NULL: bytes are discarded. */
    size_t (*on_data)(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user);

    /* After a send that gave NETKIT_E_FULL, or netkit_conn_want_drain: as much fits
     * now. */
    void (*on_drain)(netkit_loop *loop, netkit_conn conn, void *user);

    /* The peer will send no more; sending still works. Closing is up to you.
     * NULL: the conn is closed gracefully. */
    void (*on_eof)(netkit_loop *loop, netkit_conn conn, void *user);

    /* The end, exactly once, last. The handle dies when it returns. */
    void (*on_close)(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                     void *user);
} netkit_handler;

/* Limits and switches of a conn; all zero = defaults. */
typedef struct netkit_conn_options {
    uint32_t ext_size;          /* bytes of netkit_conn_ext, 0 = none */
    uint32_t recv_max;          /* bytes on_data may leave unused, 0 = 65,536 or send_max if that
                                   is less; more than send_max with duplex only */
    uint32_t send_max;          /* bytes the queue takes, 0 = 262,144 */
    uint32_t chunks_max;        /* borrowed chunks the queue takes, 0 = 1,024 */
    uint32_t drain_max;         /* input discarded by a graceful close, 0 = 1 MiB */
    uint32_t close_deadline_ms; /* for a whole graceful close, 0 = the loop's, 5,000 */
    uint32_t idle_timeout_ms;   /* no byte either way for so long ends it, 0 = the loop's, never */
    uint32_t deadline_ms;       /* end it so long after its start, 0 = never */
    uint32_t rate_min;          /* bytes to be received in each rate_period_ms, 0 = any */
    uint32_t rate_period_ms;    /* 0 = 5,000 */
    uint32_t user_timeout_ms;   /* sent data unacknowledged for so long ends it (Linux), 0 = off */
    uint32_t keepalive_s;       /* probe after so many silent seconds, 0 = off */
    uint32_t recv_buffer;       /* NETKIT_OPT_RECV_BUFFER, 0 = the system's; in time for TCP to
                                   tell the peer. For accepted and dialled ones */
    uint32_t send_buffer;       /* NETKIT_OPT_SEND_BUFFER, 0 = the system's */
    uint32_t fds_max;           /* unix: descriptors that may have come and wait for
                                   netkit_conn_take_fd, 0 = what comes is closed */
    bool duplex;                /* on_data comes even while the queue could not take an answer */
    bool no_nodelay;            /* leave Nagle's algorithm on */
} netkit_conn_options;

/* ---- listeners ------------------------------------------------------------ */

typedef struct netkit_listen_desc {
    const char *address;      /* as netkit_addr_parse; used during the call */
    const netkit_addr *addr;  /* or an address; used during the call */
    netkit_socket socket;     /* or a listening socket to adopt; owned from success on */
    int backlog;              /* 0 = the most the system takes */
    uint32_t conns_max;       /* conns alive at a time, closing ones too; 0 = no limit but the
                                 loop's. At the limit connections wait in the backlog */
    bool reuse_port;          /* several listeners share the port, the kernel balances */
    bool exclusive;           /* the port must be all free: no connection in TIME_WAIT either */
    bool v6only;              /* an IPv6 wildcard takes no IPv4 */
    bool unix_replace;        /* unix: take the place of a socket's file that is left over, that is,
                                 nobody has it bound; never of anything else */
    bool unix_keep;           /* unix: leave the file when the listener closes; else it is removed,
                                 if it is the one made here, by the process that made it */
    uint32_t unix_mode;       /* unix: permissions of the file (0660, ...), 0 = as umask leaves */
    netkit_handler handler;   /* of the conns */
    netkit_conn_options conn; /* of the conns */
    void *user;               /* for the callbacks below and, at first, of each conn */

    /* A connection waits, from `peer`. Return 0 to take it; anything else
     * resets it, and no conn comes to be. NULL: take all. */
    int (*on_accept)(netkit_loop *loop, netkit_listener listener, const netkit_addr *peer,
                     void *user);

    /* Accepting failed; it goes on by itself (after a pause when the machine
     * is short of descriptors or memory: then one report for the burst). */
    void (*on_error)(netkit_loop *loop, netkit_listener listener, int code, int os_code,
                     void *user);

    /* The listener is closed; last. */
    void (*on_close)(netkit_loop *loop, netkit_listener listener, void *user);
} netkit_listen_desc;

/* Listen and accept. `out` may be NULL. When it fails nothing was created.
 * Returns NETKIT_OK, NETKIT_E_INVALID (also for a value no field can have),
 * NETKIT_E_ADDRINUSE, NETKIT_E_ACCESS, NETKIT_E_ADDRNOTAVAIL, NETKIT_E_NOSYS,
 * NETKIT_E_FULL, NETKIT_E_NOMEM, NETKIT_E_MFILE. Thread: the loop's. */
NETKIT_API int netkit_listen(netkit_loop *loop, const netkit_listen_desc *desc,
                             netkit_listener *out);

/* Stop listening; accepted conns live on. on_close comes from the loop.
 * A second close is NETKIT_OK. Thread: the loop's. */
NETKIT_API int netkit_listener_close(netkit_loop *loop, netkit_listener listener);

/* The address it is bound to, to *out: the real port after port 0.
 * NETKIT_E_CLOSED when it is closing. Thread: the loop's. */
NETKIT_API int netkit_listener_local(netkit_loop *loop, netkit_listener listener, netkit_addr *out);

/* Options of its socket, as netkit_socket_set, _get, _set_text and _get_text. Most
 * pass to the conns it accepts from then on. NETKIT_E_CLOSED when it is closing.
 * Thread: the loop's. */
NETKIT_API int netkit_listener_set_option(netkit_loop *loop, netkit_listener listener,
                                          netkit_option option, int value);
NETKIT_API int netkit_listener_get_option(netkit_loop *loop, netkit_listener listener,
                                          netkit_option option, int *value);
NETKIT_API int netkit_listener_set_option_text(netkit_loop *loop, netkit_listener listener,
                                               netkit_option option, const char *value);
NETKIT_API int netkit_listener_get_option_text(netkit_loop *loop, netkit_listener listener,
                                               netkit_option option, char *text, size_t size);

/* Whether it keeps netkit_loop_run going (at first it does). Thread: the loop's. */
NETKIT_API int netkit_listener_set_referenced(netkit_loop *loop, netkit_listener listener,
                                              bool referenced);

/* ---- making conns ---------------------------------------------------------- */

typedef struct netkit_connect_desc {
    const char *address;       /* a literal, as netkit_addr_parse; used during the call */
    const netkit_addr *addr;   /* or an address; used during the call */
    const netkit_addr *source; /* bind to this first, NULL = the system chooses */
    uint32_t timeout_ms;       /* for connecting, 0 = the loop's, 30,000 */
    netkit_handler handler;
    netkit_conn_options conn;
    void *user;
} netkit_connect_desc;

/* Start connecting. Sending is legal at once and goes out after on_open. From
 * success on on_close comes exactly once, whatever happens; before on_open it
 * says why connecting failed.
 * Returns NETKIT_OK, or an error that could be told at once and then nothing is
 * called: NETKIT_E_INVALID, NETKIT_E_FULL, NETKIT_E_NOMEM, NETKIT_E_MFILE, what the
 * system says of `source`, ... What it says of the address itself may come in either
 * way: NETKIT_E_UNREACHABLE, NETKIT_E_ADDRNOTAVAIL, NETKIT_E_ACCESS, ... `out` may be
 * NULL. Thread: the loop's. */
NETKIT_API int netkit_connect(netkit_loop *loop, const netkit_connect_desc *desc, netkit_conn *out);

typedef struct netkit_adopt_desc {
    netkit_socket socket; /* a connected stream; owned from success on */
    netkit_handler handler;
    netkit_conn_options conn;
    void *user;
} netkit_adopt_desc;

/* Take a connected socket into the loop; on_open comes from the loop. `out` may be
 * NULL. On failure the socket stays the caller's.
 * Returns NETKIT_OK, NETKIT_E_INVALID, NETKIT_E_FULL, NETKIT_E_NOMEM, ...
 * Thread: the loop's. */
NETKIT_API int netkit_adopt(netkit_loop *loop, const netkit_adopt_desc *desc, netkit_conn *out);

/* ---- using conns ------------------------------------------------------------
 *
 * All of these give NETKIT_E_CLOSED once the conn is closing; then only what looks,
 * close and abort are left. When it has ended, in on_close too, its socket is gone:
 * addresses, descriptor, options and credentials give NETKIT_E_CLOSED as well. */

/* Queue bytes; they are copied and go out together when the callback returns.
 * Takes all or nothing.
 * Returns NETKIT_OK; NETKIT_E_FULL: nothing was taken, on_drain comes once when
 * this size fits; NETKIT_E_TOOBIG: it can never fit; NETKIT_E_NOMEM: the conn
 * ends, as a stream must not lose its middle; NETKIT_E_CLOSED after
 * netkit_conn_shutdown. Thread: the loop's. */
NETKIT_API int netkit_conn_send(netkit_loop *loop, netkit_conn conn, const void *data, size_t len);

/* The same for the spans of an array, as one. The array is used during the call.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_sendv(netkit_loop *loop, netkit_conn conn, const netkit_span *spans,
                                 size_t count);

/* Called from the loop exactly once for memory that was lent: NETKIT_OK when the
 * system has taken it all, else why not. In order, before on_close. */
typedef void (*netkit_release_fn)(netkit_loop *loop, int status, void *user);

/* Queue bytes without copying: `data` is lent until release is called. When the
 * call fails release is not called and the memory is the caller's. Borrowed
 * bytes do not count against send_max, but their number against chunks_max
 * (then NETKIT_E_FULL and on_drain). NETKIT_E_NOMEM: not lent; the conn may end.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_send_borrowed(netkit_loop *loop, netkit_conn conn, const void *data,
                                         size_t len, netkit_release_fn release, void *user);

/* Queue part of a plain file (a native descriptor, duplicated: it may be closed
 * after the call): `len` bytes from `offset`, NETKIT_FILE_END = up to its end. The
 * system moves them by itself where it can; reading from a slow disk holds the loop.
 * Counts against chunks_max and not send_max; `release` (may be NULL) as for borrowed
 * memory. NETKIT_E_TRUNCATED: the file has fewer bytes; when it is cut later, the conn
 * ends with that code. NETKIT_E_INVALID: not a plain file. Thread: the loop's. */
NETKIT_API int netkit_conn_send_file(netkit_loop *loop, netkit_conn conn, uintptr_t file,
                                     uint64_t offset, uint64_t len, netkit_release_fn release,
                                     void *user);

/* Write a message where it will be sent from, without a copy: reserve gives a place
 * for at least `len` bytes in one piece (*room says how many fit; NETKIT_RESERVE_MAX
 * can be had), commit queues the first `len` that were written. The place lives until
 * commit, any other call for a conn, or the callback's return. reserve: NETKIT_E_FULL
 * and NETKIT_E_TOOBIG as send, NETKIT_E_NOMEM (nothing is lost). commit:
 * NETKIT_E_INVALID for more than was reserved, or when the place is gone;
 * NETKIT_E_NOMEM: the conn ends.
 * Thread: the loop's. */
enum {
    NETKIT_RESERVE_MAX = 16000
};
NETKIT_API int netkit_conn_reserve(netkit_loop *loop, netkit_conn conn, size_t len, void **out,
                                   size_t *room);
NETKIT_API int netkit_conn_commit(netkit_loop *loop, netkit_conn conn, size_t len);

/* More is to come: hold back what is queued over callbacks and turns until 64 KiB are
 * together (or a small send_max is short of room), or netkit_conn_flush, shutdown,
 * close, or the cork is taken out. NETKIT_E_NOMEM: the conn ends. Thread: the loop's. */
NETKIT_API int netkit_conn_cork(netkit_loop *loop, netkit_conn conn, bool corked);

/* Queue bytes together with open descriptors, for the other end of a unix conn:
 * they come no later than the first of the bytes, of which there must be one. The
 * descriptors are duplicated: close your own whenever you like. Takes all or
 * nothing; counts as a borrowed chunk, and its bytes do not count.
 * Returns what netkit_conn_send does, and NETKIT_E_MFILE: no descriptor left for
 * the duplicates; NETKIT_E_NOSYS: not a unix conn; NETKIT_E_TOOBIG: more than
 * NETKIT_FDS_MAX of them, or more than send_max bytes. Thread: the loop's. */
NETKIT_API int netkit_conn_send_fds(netkit_loop *loop, netkit_conn conn, const void *data,
                                    size_t len, const uintptr_t *fds, size_t count);

/* Take the oldest descriptor that has come and was not taken: it is yours to close
 * from then on, and close-on-exec. Descriptors are a queue of their own, beside the
 * bytes: when on_data is shown the first byte of a message, all that were sent with
 * it are there, and perhaps those of later ones; so have messages tell how many
 * belong to them. A peer that makes more than fds_max wait ends the conn
 * (NETKIT_E_TOOBIG), and so does losing some because the process had no room for
 * them (NETKIT_E_TRUNCATED). What nobody took is closed with the conn.
 * Returns NETKIT_OK; NETKIT_E_AGAIN: none waits, *out is UINTPTR_MAX.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_take_fd(netkit_loop *loop, netkit_conn conn, uintptr_t *out);

/* Who is at the other end of a unix conn, as netkit_socket_credentials.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_credentials(netkit_loop *loop, netkit_conn conn,
                                       netkit_credentials *out);

/* Have on_drain called once, in a later turn, when `room` bytes fit into the queue:
 * for those who send a lot piece by piece and let others have their turn between.
 * NETKIT_E_TOOBIG: so much never fits. Thread: the loop's. */
NETKIT_API int netkit_conn_want_drain(netkit_loop *loop, netkit_conn conn, size_t room);

/* Send what is queued now instead of when the callback returns. Calls nothing
 * back. Thread: the loop's. */
NETKIT_API int netkit_conn_flush(netkit_loop *loop, netkit_conn conn);

/* Stop and restart on_data; pausing in the callback is legal. End of file and
 * reset are held back behind data that is not delivered. Resuming offers what
 * was left unused again (one that was not paused too). Thread: the loop's. */
NETKIT_API int netkit_conn_pause(netkit_loop *loop, netkit_conn conn);
NETKIT_API int netkit_conn_resume(netkit_loop *loop, netkit_conn conn);

/* End our direction after what is queued; receiving goes on. Thread: the loop's. */
NETKIT_API int netkit_conn_shutdown(netkit_loop *loop, netkit_conn conn);

/* Close gracefully: send what is queued, end our direction, discard input until
 * the peer ends its own, then on_close. Bounded by close_deadline_ms and
 * drain_max. A second close is NETKIT_OK. Thread: the loop's. */
NETKIT_API int netkit_conn_close(netkit_loop *loop, netkit_conn conn);

/* End at once with a reset; what is queued is dropped, releases and on_close
 * follow from the loop. Thread: the loop's. */
NETKIT_API int netkit_conn_abort(netkit_loop *loop, netkit_conn conn);

/* Bytes queued and not yet taken by the system; bytes received and not used. Both to
 * *out. Thread: the loop's. */
NETKIT_API int netkit_conn_queued(netkit_loop *loop, netkit_conn conn, size_t *out);
NETKIT_API int netkit_conn_unread(netkit_loop *loop, netkit_conn conn, size_t *out);

/* Returns NETKIT_PHASE_* of a conn, or an error. Thread: the loop's. */
NETKIT_API int netkit_conn_phase(netkit_loop *loop, netkit_conn conn);

/* Addresses of both ends, written to the caller's *out. Before on_open the system may
 * not have chosen ours: then its port is 0. Thread: the loop's. */
NETKIT_API int netkit_conn_local(netkit_loop *loop, netkit_conn conn, netkit_addr *out);
NETKIT_API int netkit_conn_remote(netkit_loop *loop, netkit_conn conn, netkit_addr *out);

/* The system's descriptor to *native: look, set options; never close it.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_native(netkit_loop *loop, netkit_conn conn, uintptr_t *native);

/* Options of its socket, as netkit_socket_set, _get, _set_text and _get_text; what
 * would make the loop wait is NETKIT_E_INVALID. Thread: the loop's. */
NETKIT_API int netkit_conn_set_option(netkit_loop *loop, netkit_conn conn, netkit_option option,
                                      int value);
NETKIT_API int netkit_conn_get_option(netkit_loop *loop, netkit_conn conn, netkit_option option,
                                      int *value);
NETKIT_API int netkit_conn_set_option_text(netkit_loop *loop, netkit_conn conn,
                                           netkit_option option, const char *value);
NETKIT_API int netkit_conn_get_option_text(netkit_loop *loop, netkit_conn conn,
                                           netkit_option option, char *text, size_t size);

/* Get and set the pointer given to callbacks; NULL for a stale handle.
 * Thread: the loop's. */
NETKIT_API void *netkit_conn_user(netkit_loop *loop, netkit_conn conn);
NETKIT_API int netkit_conn_set_user(netkit_loop *loop, netkit_conn conn, void *user);

/* The conn's own ext_size bytes: zeroed at first, aligned to 16, in place until
 * on_close has returned; NULL for a stale handle or ext_size 0. Thread: the loop's. */
NETKIT_API void *netkit_conn_ext(netkit_loop *loop, netkit_conn conn);

/* Replace table and user (a change of protocol); the table is copied. The new one
 * is offered what the old one leaves unused. NETKIT_E_NOMEM: nothing has changed.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_set_handler(netkit_loop *loop, netkit_conn conn,
                                       const netkit_handler *handler, void *user);

/* Change a timeout; 0 = none. The deadline counts from now. NETKIT_E_INVALID for an
 * idle timeout over INT32_MAX; NETKIT_E_NOMEM. Thread: the loop's. */
NETKIT_API int netkit_conn_set_idle_timeout(netkit_loop *loop, netkit_conn conn,
                                            uint32_t timeout_ms);
NETKIT_API int netkit_conn_set_deadline(netkit_loop *loop, netkit_conn conn, uint32_t deadline_ms);

/* Whether it keeps netkit_loop_run going (at first it does). Thread: the loop's. */
NETKIT_API int netkit_conn_set_referenced(netkit_loop *loop, netkit_conn conn, bool referenced);

/* Received bytes kept beyond the callback. */
typedef struct netkit_buf {
    const void *data;
    size_t len;
    void *owner; /* netkit's */
} netkit_buf;

/* Keep the whole span that on_data was called with (only there): large spans
 * without copying. *out is for netkit_buf_release. NETKIT_E_FULL when desc.keep_max
 * bytes would be exceeded, NETKIT_E_BUSY outside on_data, NETKIT_E_NOMEM.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_keep(netkit_loop *loop, netkit_conn conn, netkit_buf *out);

/* Give it back, before or after the loop is destroyed (then the allocator's
 * free is called here). *buf becomes {0}. Thread: any. */
NETKIT_API void netkit_buf_release(netkit_buf *buf);

/* ---- src/api/udp.h ---- */
/* ---- datagrams: UDP -----------------------------------------------------------
 *
 * A udp is a datagram socket in a loop. One struct describes a datagram on its
 * way in and out, so that what has come can be sent on as it is. Its handle stays
 * valid until on_close has returned. Once it is closing all calls but close, queued,
 * user and ext give NETKIT_E_CLOSED; NETKIT_E_STALE, _THREAD and _INVALID: see the
 * head of "loop". */

typedef struct netkit_udp {
    uint64_t id;
} netkit_udp;

/* A datagram. Received: what is not known, or was not asked for, is 0. To send:
 * what is 0 is left to the socket and the system. */
typedef struct netkit_datagram {
    uint64_t time_ns;         /* received: the system's wall clock (tell_time) */
    const void *data;         /* received: lives until the callback returns; to send: copied */
    size_t len;               /* 0 is a datagram like any other */
    netkit_addr peer;         /* who sent it | where it goes; {0} = the connected peer */
    netkit_addr local;        /* the address of ours it came to | to send it from */
    uint32_t interface_index; /* where it came in (tell_local) | is to go out */
    uint32_t segment_size;    /* `data` is datagrams of this size, the last may be shorter;
                                 0 = one datagram */
    uint32_t mtu;             /* in on_error: what the path takes at most */
    int error;                /* in on_error: why it failed, else 0 */
    int os_code;              /* and the system's code for it */
    uint8_t tos;              /* type of service or traffic class; the low two bits are ECN */
    uint8_t ttl;              /* time to live or hop limit */
    bool is_truncated;        /* its end is missing: longer than there was room for */
} netkit_datagram;

enum {
    NETKIT_ECN_NONE = 0, /* netkit_datagram.tos & NETKIT_ECN_MASK */
    NETKIT_ECN_ECT1 = 1,
    NETKIT_ECN_ECT0 = 2,
    NETKIT_ECN_CE = 3, /* congestion was met on the way */
    NETKIT_ECN_MASK = 3,
    NETKIT_DATAGRAM_MAX = 65507 /* bytes of one datagram over IPv4; IPv6 takes 20 more */
};

/* Callbacks of a udp. NULL = default. */
typedef struct netkit_udp_handler {
    /* A datagram has come; it lives until the return. NULL: it is discarded. */
    void (*on_datagram)(netkit_loop *loop, netkit_udp udp, const netkit_datagram *datagram,
                        void *user);

    /* After a send that gave NETKIT_E_FULL: as much fits now. */
    void (*on_drain)(netkit_loop *loop, netkit_udp udp, void *user);

    /* A datagram to failed->peer did not arrive or could not be sent (->error:
     * NETKIT_E_REFUSED: nobody listens there, NETKIT_E_UNREACHABLE, ...), as far as
     * the network tells; ->data is its beginning if that came back. With peer {0}
     * receiving failed, and goes on by itself. The udp stays open.
     * NULL: errors are not asked for, and passed over. */
    void (*on_error)(netkit_loop *loop, netkit_udp udp, const netkit_datagram *failed, void *user);

    /* The end, exactly once, last; info->unsent bytes were never sent, of which nobody
     * was told. */
    void (*on_close)(netkit_loop *loop, netkit_udp udp, const netkit_close_info *info, void *user);
} netkit_udp_handler;

typedef struct netkit_udp_desc {
    const char *address;          /* to bind to, as netkit_addr_parse, port 0 = a free one; may be
                                     NULL with a peer. Used during the call, as the next three */
    const netkit_addr *addr;      /* or an address */
    const char *peer;             /* connect: only its datagrams come, sends need no address */
    const netkit_addr *peer_addr; /* or an address */
    netkit_socket socket;         /* or a datagram socket to adopt; owned from success on */
    uint32_t recv_size;           /* longest datagram taken whole, 0 = 65,535: none is cut; up to
                                     7,792 without gro come uncopied on io_uring */
    uint32_t send_max;            /* bytes that may wait to be sent, each datagram counting 64
                                     more, 0 = 262,144 */
    uint32_t recv_buffer;         /* of the system, in bytes, 0 = its default */
    uint32_t send_buffer;         /* the same */
    uint32_t ext_size;            /* bytes of netkit_udp_ext, 0 = none */
    bool reuse_port; /* several udps share the port, the kernel spreads the senders over them */
    bool share;      /* other programs may bind the same port, for multicast: all get each one */
    bool v6only;     /* an IPv6 wildcard takes no IPv4 */
    bool broadcast;  /* may send to broadcast addresses */
    bool tell_local; /* fill in local and interface_index; a wildcard address always does */
    bool tell_tos;   /* fill in tos */
    bool tell_ttl;   /* fill in ttl */
    bool tell_time;  /* fill in time_ns */
    bool gro;        /* let the kernel merge what arrives in a row: cheaper by factors in bulk;
                         on_datagram still comes for each */
    bool gro_whole;  /* the same, but merged ones are handed over whole, with segment_size */
    netkit_udp_handler handler;
    void *user;
} netkit_udp_desc;

/* Open a datagram socket in a loop. `out` may be NULL. When it fails nothing was
 * created. Returns NETKIT_OK, NETKIT_E_INVALID, NETKIT_E_ADDRINUSE,
 * NETKIT_E_ADDRNOTAVAIL, NETKIT_E_ACCESS, NETKIT_E_UNREACHABLE (the peer),
 * NETKIT_E_NOSYS, NETKIT_E_FULL, NETKIT_E_NOMEM, NETKIT_E_MFILE. Thread: the loop's. */
NETKIT_API int netkit_udp_open(netkit_loop *loop, const netkit_udp_desc *desc, netkit_udp *out);

/* Send what is queued as far as the system takes it at once, and close. on_close
 * comes from the loop; no other callback does. A second close is NETKIT_OK.
 * Thread: the loop's. */
NETKIT_API int netkit_udp_close(netkit_loop *loop, netkit_udp udp);

/* ---- sending -------------------------------------------------------------------
 *
 * A datagram is copied and goes out with the others when all that was received
 * together has been handled, at the end of the turn, or when 64 have gathered. In
 * order. What fails later is told to on_error.
 * All of these return NETKIT_OK (or a count); NETKIT_E_FULL: nothing was taken, as
 * send_max bytes wait for the system; on_drain comes once when there is room;
 * NETKIT_E_TOOBIG: longer than a datagram can be, or than send_max;
 * NETKIT_E_NOTCONN: no address and no peer; NETKIT_E_INVALID: an address that this
 * socket cannot send to; NETKIT_E_NOMEM. */

/* Send one datagram. `to` NULL: to the connected peer. Thread: the loop's. */
NETKIT_API int netkit_udp_send(netkit_loop *loop, netkit_udp udp, const netkit_addr *to,
                               const void *data, size_t len);

/* Answer a datagram: to its sender, from the address that it came to. `received` may
 * be a copy kept for later: its data is not looked at. Thread: the loop's. */
NETKIT_API int netkit_udp_reply(netkit_loop *loop, netkit_udp udp, const netkit_datagram *received,
                                const void *data, size_t len);

/* Send datagrams with all that the struct can say. With segment_size one of them
 * stands for many to the same peer, cut by the kernel or the network card where
 * they can, by netkit elsewhere; together at most NETKIT_DATAGRAM_MAX bytes.
 * Returns how many were taken, the first ones of the array, or why the first one
 * was not. Thread: the loop's. */
NETKIT_API int netkit_udp_send_batch(netkit_loop *loop, netkit_udp udp,
                                     const netkit_datagram *datagrams, size_t count);

/* Send what is queued now. Calls nothing back. Thread: the loop's. */
NETKIT_API int netkit_udp_flush(netkit_loop *loop, netkit_udp udp);

/* ---- receiving, groups --------------------------------------------------------- */

/* Stop and restart on_datagram and on_error; pausing in the callback is legal.
 * Meanwhile datagrams wait in the socket, as far as its buffer goes, and of the sends
 * that fail 16 are told later. Thread: the loop's. */
NETKIT_API int netkit_udp_pause(netkit_loop *loop, netkit_udp udp);
NETKIT_API int netkit_udp_resume(netkit_loop *loop, netkit_udp udp);

/* Join and leave a multicast group, on an interface (its index, 0 = the system's
 * choice), from any source or (`source` not NULL) from this one. Joining twice is
 * NETKIT_E_ADDRINUSE, leaving what was not joined NETKIT_E_ADDRNOTAVAIL. A udp bound
 * to a wildcard address gets what other sockets of the machine have joined, too:
 * look at `local`. Thread: the loop's. */
NETKIT_API int netkit_udp_join(netkit_loop *loop, netkit_udp udp, const netkit_addr *group,
                               uint32_t interface_index, const netkit_addr *source);
NETKIT_API int netkit_udp_leave(netkit_loop *loop, netkit_udp udp, const netkit_addr *group,
                                uint32_t interface_index, const netkit_addr *source);

/* ---- looking ------------------------------------------------------------------- */

/* What the system does for a datagram socket. What is missing is done without: GSO
 * by sending one by one, GRO by receiving one by one, the rest is left 0. */
enum {
    NETKIT_UDP_CAP_BATCH = 1,   /* many datagrams in one system call */
    NETKIT_UDP_CAP_GSO = 2,     /* cuts segments */
    NETKIT_UDP_CAP_GRO = 4,     /* merges segments */
    NETKIT_UDP_CAP_LOCAL = 8,   /* tells and takes the local address */
    NETKIT_UDP_CAP_TOS = 16,    /* tells and takes tos */
    NETKIT_UDP_CAP_TTL = 32,    /* tells and takes ttl */
    NETKIT_UDP_CAP_TIME = 64,   /* tells the time */
    NETKIT_UDP_CAP_ERRORS = 128 /* tells who could not be reached */
};

/* NETKIT_UDP_CAP_* of this udp to *caps. Thread: the loop's. */
NETKIT_API int netkit_udp_caps(netkit_loop *loop, netkit_udp udp, uint32_t *caps);

/* To *out its address, the real port after port 0; and the peer it is connected to
 * (NETKIT_E_NOTCONN). Thread: the loop's. */
NETKIT_API int netkit_udp_local(netkit_loop *loop, netkit_udp udp, netkit_addr *out);
NETKIT_API int netkit_udp_remote(netkit_loop *loop, netkit_udp udp, netkit_addr *out);

/* Bytes that wait to be sent, to *out, each datagram counting 64 more.
 * Thread: the loop's. */
NETKIT_API int netkit_udp_queued(netkit_loop *loop, netkit_udp udp, size_t *out);

/* The system's descriptor to *native: look, set options; never close it.
 * Thread: the loop's. */
NETKIT_API int netkit_udp_native(netkit_loop *loop, netkit_udp udp, uintptr_t *native);

/* Options of its socket (NETKIT_OPT_TTL, NETKIT_OPT_MULTICAST_LOOP, ...), as
 * netkit_socket_set and _get. NETKIT_OPT_GRO and NETKIT_OPT_TELL_ERRORS are set by
 * the desc alone (NETKIT_E_INVALID, as is NETKIT_OPT_BLOCKING). Thread: the loop's. */
NETKIT_API int netkit_udp_set_option(netkit_loop *loop, netkit_udp udp, netkit_option option,
                                     int value);
NETKIT_API int netkit_udp_get_option(netkit_loop *loop, netkit_udp udp, netkit_option option,
                                     int *value);

/* Get and set the pointer given to callbacks; NULL for a stale handle.
 * Thread: the loop's. */
NETKIT_API void *netkit_udp_user(netkit_loop *loop, netkit_udp udp);
NETKIT_API int netkit_udp_set_user(netkit_loop *loop, netkit_udp udp, void *user);

/* Its own ext_size bytes: zeroed at first, aligned to 16, in place until on_close
 * has returned; NULL for a stale handle or ext_size 0. Thread: the loop's. */
NETKIT_API void *netkit_udp_ext(netkit_loop *loop, netkit_udp udp);

/* Whether it keeps netkit_loop_run going (at first it does). Thread: the loop's. */
NETKIT_API int netkit_udp_set_referenced(netkit_loop *loop, netkit_udp udp, bool referenced);

/* ---- datagrams on plain sockets -------------------------------------------------- */

/* Receive up to `count` datagrams that are there now (32 at most in one call).
 * `memory` is cut into `count` equal parts, one for each: what is longer is cut
 * (is_truncated). What is told beside data and peer is asked for by
 * NETKIT_OPT_TELL_* and NETKIT_OPT_GRO. One whose `error` is set is no datagram but
 * the news that one of ours failed (NETKIT_OPT_TELL_ERRORS).
 * Returns how many, at least 1; NETKIT_E_AGAIN; NETKIT_E_REFUSED and the like: an
 * earlier send of this connected socket has failed, go on receiving.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_recv_datagrams(netkit_socket s, netkit_datagram *datagrams,
                                            size_t count, void *memory, size_t size);

/* Send datagrams now, 32 at most in one call. Returns how many were sent, at least
 * 1 (or 0 for count 0), or why the first one was not: NETKIT_E_AGAIN,
 * NETKIT_E_TOOBIG, NETKIT_E_ACCESS, NETKIT_E_REFUSED (an earlier one was: send it
 * again), ... Where the system cannot cut segments (NETKIT_UDP_CAP_GSO), segment_size
 * is NETKIT_E_NOSYS: only a udp, which has a queue, can do that for it.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_send_datagrams(netkit_socket s, const netkit_datagram *datagrams,
                                            size_t count);

/* netkit_udp_join, _leave and _caps for a plain socket. Thread: the socket's. */
NETKIT_API int netkit_socket_join(netkit_socket s, const netkit_addr *group,
                                  uint32_t interface_index, const netkit_addr *source);
NETKIT_API int netkit_socket_leave(netkit_socket s, const netkit_addr *group,
                                   uint32_t interface_index, const netkit_addr *source);
NETKIT_API int netkit_socket_datagram_caps(netkit_socket s, uint32_t *caps);

/* ---- src/api/event.h ---- */
/* ---- pulling events ----------------------------------------------------------
 *
 * For those who would rather fetch than be called: games, other languages. With
 * desc.pull what has no callback comes as an event: conns, listeners and udps
 * whose handler leaves it NULL, timers and watches without a function. For
 * NETKIT_E_THREAD and NETKIT_E_INVALID see the head of "loop". */

typedef enum netkit_event_type {
    NETKIT_EVENT_NONE = 0,
    NETKIT_EVENT_OPEN,           /* conn */
    NETKIT_EVENT_DATA,           /* conn, data, len: used up unless netkit_loop_consume says less */
    NETKIT_EVENT_DRAIN,          /* conn */
    NETKIT_EVENT_EOF,            /* conn: closing it is up to you */
    NETKIT_EVENT_CLOSE,          /* conn, close */
    NETKIT_EVENT_LISTENER_ERROR, /* listener, close.code, close.os_code */
    NETKIT_EVENT_LISTENER_CLOSE, /* listener */
    NETKIT_EVENT_TIMER,          /* timer */
    NETKIT_EVENT_WATCH,          /* watch, poll_events */
    NETKIT_EVENT_DATAGRAM,       /* udp, datagram */
    NETKIT_EVENT_UDP_DRAIN,      /* udp */
    NETKIT_EVENT_UDP_ERROR,      /* udp, datagram: as on_error */
    NETKIT_EVENT_UDP_CLOSE       /* udp, close */
} netkit_event_type;

typedef struct netkit_event {
    netkit_event_type type;
    uint32_t poll_events; /* NETKIT_POLL_* */
    netkit_conn conn;
    netkit_listener listener;
    netkit_timer timer;
    netkit_watch watch;
    netkit_udp udp;
    const netkit_datagram *datagram; /* lives as long as data */
    const void *data; /* lives until the next call of netkit_loop_next, run_once or poll */
    size_t len;
    netkit_close_info close;
    void *user; /* the object's */
} netkit_event;

/* Fetch the next event of the turn that netkit_loop_run_once or netkit_loop_poll
 * has begun, or begin one that does not wait. Nothing is queued or copied: each
 * call does the next piece of the turn's work.
 * Returns 1 with *out filled; 0 at the end of the turn (all sent, *out zeroed);
 * NETKIT_E_BUSY in a callback; NETKIT_E_INVALID without desc.pull.
 * Thread: the loop's. */
NETKIT_API int netkit_loop_next(netkit_loop *loop, netkit_event *out);

/* Say how many bytes of the DATA event just fetched were used; the rest comes
 * again with more behind it. NETKIT_E_INVALID when that was no DATA event or had
 * fewer bytes. Thread: the loop's. */
NETKIT_API int netkit_loop_consume(netkit_loop *loop, size_t used);

/* ---- src/api/arena.h ---- */
/* ---- arena ----------------------------------------------------------------
 *
 * Many allocations, one release: what a request, a frame or a level needs is
 * taken piece by piece and given back all at once.
 *
 *     netkit_arena arena = {0};                  (C++: = {})
 *     name = netkit_arena_copy(&arena, text, len);
 *     netkit_arena_reset(&arena);                all gone, memory kept for the next
 *     netkit_arena_free(&arena);
 *
 * A zeroed arena is ready. Pointers into it live until reset or free. No argument may
 * be NULL. "Thread: one at a time." is for each arena. */
typedef struct netkit_arena {
    size_t chunk_size;          /* asked of the allocator at a time, 0 = 10 KiB */
    size_t size_max;            /* bytes held at most, 0 = 100 MiB */
    netkit_allocator allocator; /* all zero = malloc */
    /* netkit's own from here; the above may change while `size` is 0. */
    size_t size; /* held from the allocator */
    size_t used; /* of the first chunk */
    struct netkit_arena_chunk *chunks;
    struct netkit_arena_chunk *spare;
} netkit_arena;

/* `size` bytes aligned to 16, not cleared; 0 bytes is one byte. NULL when size_max
 * would be exceeded or there is no memory: what was taken before stays.
 * Thread: one at a time. */
NETKIT_API void *netkit_arena_alloc(netkit_arena *arena, size_t size);

/* Room for `count` elements of `size` bytes, cleared. NULL also when the product
 * does not fit a size_t. Thread: one at a time. */
NETKIT_API void *netkit_arena_alloc_array(netkit_arena *arena, size_t count, size_t size);

/* A copy of `len` bytes with a 0 behind it, or NULL. Thread: one at a time. */
NETKIT_API char *netkit_arena_copy(netkit_arena *arena, const void *data, size_t len);

/* Take everything back. Chunks of the usual size are kept for what comes next.
 * Thread: one at a time. */
NETKIT_API void netkit_arena_reset(netkit_arena *arena);

/* Take everything back and give all memory away; the arena is as new.
 * Thread: one at a time. */
NETKIT_API void netkit_arena_free(netkit_arena *arena);

/* ---- src/api/fifo.h ---- */
/* ---- fifo: a circular buffer of bytes --------------------------------------
 *
 * Bytes go in at the back and come out at the front. It grows by doubling up to
 * capacity_max and never shrinks before free.
 *
 *     netkit_fifo fifo = {0};                    (C++: = {})
 *     netkit_fifo_write(&fifo, data, len);
 *     n = netkit_fifo_read(&fifo, out, sizeof out);
 *     netkit_fifo_free(&fifo);
 *
 * A zeroed fifo is ready. Pointers into it live until the next call that takes a
 * netkit_fifo * without const. No argument may be NULL, but data of 0 bytes.
 * "Thread: one at a time." is for each fifo. */
typedef struct netkit_fifo {
    size_t capacity_max;        /* bytes held at most, 0 = 16 MiB */
    netkit_allocator allocator; /* all zero = malloc */
    bool is_secret;             /* overwrite bytes as soon as they are not needed any more */
    /* netkit's own from here; the above may change while `capacity` is 0. */
    unsigned char *memory;
    size_t capacity; /* a power of two, or 0 */
    size_t front;
    size_t len;
} netkit_fifo;

/* Bytes that wait. Thread: one at a time. */
NETKIT_API size_t netkit_fifo_len(const netkit_fifo *fifo);

/* Append all or nothing: NETKIT_OK, NETKIT_E_FULL (not until some is read),
 * NETKIT_E_TOOBIG (never), NETKIT_E_NOMEM. Thread: one at a time. */
NETKIT_API int netkit_fifo_write(netkit_fifo *fifo, const void *data, size_t len);

/* Take up to `len` bytes off the front into `out`; returns how many.
 * Thread: one at a time. */
NETKIT_API size_t netkit_fifo_read(netkit_fifo *fifo, void *out, size_t len);

/* Copy up to `len` bytes that stand `offset` behind the front, which stay; returns how many.
 * Thread: one at a time. */
NETKIT_API size_t netkit_fifo_peek(const netkit_fifo *fifo, size_t offset, void *out, size_t len);

/* Drop up to `len` bytes off the front; returns how many. Thread: one at a time. */
NETKIT_API size_t netkit_fifo_consume(netkit_fifo *fifo, size_t len);

/* Make room, so that writing `len` more bytes cannot fail. Errors as for write.
 * Thread: one at a time. */
NETKIT_API int netkit_fifo_reserve(netkit_fifo *fifo, size_t len);

/* The bytes at the front that lie in one piece: all of them, or those up to the
 * end of the memory. {NULL, 0} when there are none. Thread: one at a time. */
NETKIT_API netkit_span netkit_fifo_front(const netkit_fifo *fifo);

/* The first `len` bytes in one piece (moving them together when they are not), or
 * NULL when there are fewer. Allocates nothing. Thread: one at a time. */
NETKIT_API const void *netkit_fifo_straighten(netkit_fifo *fifo, size_t len);

/* A place for at least `len` bytes in one piece to write to, for example by recv;
 * *room gets how many fit. Then say with commit how many were written. NULL on the
 * errors of write. Thread: one at a time. */
NETKIT_API void *netkit_fifo_space(netkit_fifo *fifo, size_t len, size_t *room);

/* `len` bytes were written to what space returned. NETKIT_E_INVALID when that is
 * more than there was room for. Thread: one at a time. */
NETKIT_API int netkit_fifo_commit(netkit_fifo *fifo, size_t len);

/* Drop all bytes; the memory is kept. Thread: one at a time. */
NETKIT_API void netkit_fifo_clear(netkit_fifo *fifo);

/* Drop all bytes and give the memory back; the fifo is as new.
 * Thread: one at a time. */
NETKIT_API void netkit_fifo_free(netkit_fifo *fifo);

/* Overwrite memory that held a secret, in a way that no compiler leaves out.
 * Thread: any. */
NETKIT_API void netkit_wipe(void *memory, size_t len);

/* ---- src/api/frame.h ---- */
/* ---- frames: messages in a stream of bytes -----------------------------------
 *
 * TCP carries bytes, not messages: what was sent in one piece may arrive in ten, or
 * three in one. A framing says where a message ends; netkit_frame_next cuts what
 * on_data got. It allocates nothing and refuses what is too long as soon as the
 * length is known.
 *
 *     static const netkit_framing framing = {0};       (C++: {}) 4 bytes of length
 *
 *     size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len, ...) {
 *         netkit_frame frame;
 *         size_t used = 0;
 *         int more;
 *         while ((more = netkit_frame_next(&framing, data, len, &used, &frame)) > 0)
 *             handle(frame.data, frame.len);
 *         if (more < 0) netkit_conn_abort(loop, conn);
 *         return used;                                 the cut one at the end comes again
 *     }
 *
 * What waits for its end counts against the conn's recv_max (64 KiB): raise it when
 * size_max is raised. */
enum {
    NETKIT_FRAME_LENGTH = 0,    /* a header with the length, then that many bytes */
    NETKIT_FRAME_DELIMITER = 1, /* bytes up to a delimiter, as in lines of text */
    NETKIT_FRAME_FIXED = 2,     /* always the same number of bytes */
    NETKIT_FRAME_HEADER_MAX = 64,
    NETKIT_FRAME_DELIMITER_MAX = 4
};

typedef struct netkit_framing {
    int kind;                  /* NETKIT_FRAME_* */
    uint32_t size_max;         /* bytes of data in a frame at most, 0 = 60 KiB */
    uint32_t size;             /* FIXED: bytes of every frame */
    uint32_t header_bytes;     /* LENGTH: of the whole header, up to NETKIT_FRAME_HEADER_MAX;
                                    0 = up to the end of the length */
    uint32_t length_offset;    /* LENGTH: where in the header the length stands */
    uint32_t length_bytes;     /* LENGTH: 1, 2 or 4; 0 = 4 */
    bool is_little_endian;     /* LENGTH: else big-endian, as the Internet has it */
    bool length_counts_header; /* LENGTH: it counts the header too, else the data alone */
    uint8_t delimiter_bytes;   /* DELIMITER: 1 to NETKIT_FRAME_DELIMITER_MAX; 0 = "\n" */
    char delimiter[NETKIT_FRAME_DELIMITER_MAX];
} netkit_framing;

typedef struct netkit_frame {
    size_t len;         /* of data */
    const void *data;   /* without header or delimiter; lives as long as the bytes cut from */
    const void *header; /* LENGTH: its header_bytes; else NULL */
} netkit_frame;

/* Cut the frame that begins *used bytes into `data`. Returns 1 with *out filled and
 * *used behind the frame; 0 when its end has not come yet, NETKIT_E_TOOBIG when it is
 * longer than size_max, NETKIT_E_INVALID when its length is less than its header's or
 * the framing makes no sense; *used is unchanged then. Thread: any. */
NETKIT_API int netkit_frame_next(const netkit_framing *framing, const void *data, size_t len,
                                 size_t *used, netkit_frame *out);

/* Write the header that announces `len` bytes of data to `out`, which has room for
 * header_bytes: the length is put in its place, other bytes stay as they are. Returns
 * the bytes of the header (0 for the other kinds), NETKIT_E_TOOBIG for more than
 * size_max or than the length can say, NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_frame_header(const netkit_framing *framing, size_t len, void *out);

/* Send `len` bytes as one frame: header before or delimiter behind, all or nothing, as
 * netkit_conn_send (whose errors these are too). NETKIT_E_TOOBIG beyond size_max;
 * NETKIT_E_INVALID when the data holds the delimiter or has not the FIXED size. Other
 * bytes of a larger header are 0: to fill them use netkit_frame_header and
 * netkit_conn_sendv. Thread: the loop's. */
NETKIT_API int netkit_frame_send(netkit_loop *loop, netkit_conn conn, const netkit_framing *framing,
                                 const void *data, size_t len);

/* ---- src/api/slotmap.h ---- */
/* ---- slot map: objects behind handles ---------------------------------------
 *
 * What netkit's own handles are made of, for a program's players, sessions and
 * requests: objects that never move, named by 64-bit handles, where the handle of
 * one that is gone is never the handle of another. Memory is taken for 256 objects at
 * a time. No argument may be NULL that is not said to be. "Thread: one at a time." is
 * for each map. */
typedef struct netkit_slotmap netkit_slotmap;

typedef struct netkit_slotmap_desc {
    size_t object_size;         /* bytes of each object, up to 1 MiB */
    uint32_t count_max;         /* objects at most, 0 = 32,768; up to 16,777,214 */
    netkit_allocator allocator; /* all zero = malloc */
} netkit_slotmap_desc;

/* Make one. NETKIT_E_INVALID, NETKIT_E_NOMEM; *out is NULL then. Thread: any. */
NETKIT_API int netkit_slotmap_create(netkit_slotmap **out, const netkit_slotmap_desc *desc);

/* Free it with all objects. NULL is legal. Thread: one at a time. */
NETKIT_API void netkit_slotmap_destroy(netkit_slotmap *map);

/* A new object, zeroed, aligned to 16: *handle names it until it is removed, never 0.
 * `object` may be NULL. NETKIT_E_FULL at count_max, NETKIT_E_NOMEM.
 * Thread: one at a time. */
NETKIT_API int netkit_slotmap_add(netkit_slotmap *map, uint64_t *handle, void **object);

/* The object of a handle; NULL when it is gone, or never was of this map.
 * Thread: one at a time. */
NETKIT_API void *netkit_slotmap_find(const netkit_slotmap *map, uint64_t handle);

/* Remove an object; NETKIT_E_STALE when the handle names none.
 * Thread: one at a time. */
NETKIT_API int netkit_slotmap_remove(netkit_slotmap *map, uint64_t handle);

/* Objects there are. Thread: one at a time. */
NETKIT_API uint32_t netkit_slotmap_count(const netkit_slotmap *map);

/* The object behind that of `after` in the order of slots (0 = the first), for loops
 * that may remove what they meet; its handle, or 0 at the end.
 * Thread: one at a time. */
NETKIT_API uint64_t netkit_slotmap_next(const netkit_slotmap *map, uint64_t after);
#ifdef __cplusplus
}
#endif

/* ---- src/api/try.h ---- */
/* ---- TRY, EXCEPT, FINALLY: opt-in by #define NETKIT_WITH_TRY -----------------
 *
 * A layer over the error codes for code with many calls and one way out:
 *
 *     netkit_try t;
 *     NETKIT_TRY(t) {
 *         NETKIT_CHECK(t, netkit_loop_create(&loop, NULL));
 *         NETKIT_CHECK(t, netkit_listen(loop, &desc, NULL));
 *     }
 *     NETKIT_EXCEPT(t) { printf("%s\n", netkit_error_text(t.error)); }
 *     NETKIT_FINALLY(t) { netkit_loop_destroy(loop); }
 *     NETKIT_TRY_END(t);
 *
 * All four stand in this order in one function. NETKIT_CHECK leaves the block when its
 * value is negative, NETKIT_RAISE always; EXCEPT runs only then, FINALLY always
 * (also when EXCEPT raises again). Afterwards t.error is what was raised last, or 0, to
 * be returned or raised with the frame of an outer TRY. There is no hidden stack of
 * frames: a function that may raise is given the frame, as a netkit_try *.
 *
 * In C++ these are exceptions (netkit_exception): destructors run, and one that is not
 * this frame's passes through, on from NETKIT_TRY_END, after FINALLY.
 *
 * Traps in C, those of setjmp (C11 7.13.2.1): a local variable that is changed inside
 * TRY and read after an error must be volatile (`loop` above); never leave a block by
 * return, break or goto; raise only while the function that holds the frame has not
 * returned; and never raise across a callback of netkit's: a callback returns. */
#if defined(NETKIT_WITH_TRY) && !defined(NETKIT_TRY)
enum {
    NETKIT_TRY_BODY = 0,
    NETKIT_TRY_ERROR = 1,
    NETKIT_TRY_FINAL = 2,
    NETKIT_TRY_OVER = 3
};

#ifdef __cplusplus
#include <exception>

struct netkit_try {
    int error; /* what was raised last, or 0 */
    std::exception_ptr pending;
};

/* What NETKIT_RAISE throws. */
struct netkit_exception : public std::exception {
    int error;
    const netkit_try *frame;
    netkit_exception(int e, const netkit_try *f) : error(e), frame(f) {}
    const char *what() const noexcept override {
        return netkit_error_text(error);
    }
};

#define NETKIT_RAISE_TO(the_try, code) throw netkit_exception((code), (the_try))
#define NETKIT_TRY(the_try)      \
    (the_try).error = 0;         \
    (the_try).pending = nullptr; \
    try {                        \
        try
#define NETKIT_EXCEPT(the_try)                      \
    catch (const netkit_exception &netkit_raised) { \
        if (netkit_raised.frame != &(the_try)) {    \
            throw;                                  \
        }                                           \
        (the_try).error = netkit_raised.error;      \
    }                                               \
    if ((the_try).error != 0)
#define NETKIT_TRY_REMEMBER(the_try)                      \
    catch (const netkit_exception &netkit_raised) {       \
        if (netkit_raised.frame == &(the_try)) {          \
            (the_try).error = netkit_raised.error;        \
        } else {                                          \
            (the_try).pending = std::current_exception(); \
        }                                                 \
    }                                                     \
    catch (...) {                                         \
        (the_try).pending = std::current_exception();     \
    }
#define NETKIT_FINALLY(the_try)  \
    }                            \
    NETKIT_TRY_REMEMBER(the_try) \
    try
#define NETKIT_TRY_END(the_try)                        \
    NETKIT_TRY_REMEMBER(the_try)                       \
    do {                                               \
        if ((the_try).pending) {                       \
            std::rethrow_exception((the_try).pending); \
        }                                              \
    } while (0)

#else
#include <setjmp.h>

typedef struct netkit_try {
    volatile int error; /* what was raised last, or 0 */
    volatile int phase;
    jmp_buf place;
} netkit_try;

/* From one block to the next that has to run. */
#define NETKIT_RAISE_TO(the_try, code)                                   \
    ((the_try)->error = (code), (the_try)->phase = (the_try)->phase + 1, \
     longjmp((the_try)->place, 1))
#define NETKIT_TRY(the_try)            \
    (the_try).error = 0;               \
    (the_try).phase = NETKIT_TRY_BODY; \
    (void)setjmp((the_try).place);     \
    if ((the_try).phase == NETKIT_TRY_BODY)
#define NETKIT_EXCEPT(the_try) if ((the_try).phase == NETKIT_TRY_ERROR)
#define NETKIT_FINALLY(the_try)               \
    if ((the_try).phase < NETKIT_TRY_FINAL) { \
        (the_try).phase = NETKIT_TRY_FINAL;   \
    }                                         \
    if ((the_try).phase == NETKIT_TRY_FINAL)
#define NETKIT_TRY_END(the_try) ((void)((the_try).phase = NETKIT_TRY_OVER))
#endif

/* Leave the block with an error; 0 is raised as NETKIT_E_INVALID. */
#define NETKIT_RAISE(the_try, code) \
    NETKIT_RAISE_TO(&(the_try), (code) == 0 ? (int)NETKIT_E_INVALID : (code))

/* Leave the block when a call failed. */
#define NETKIT_CHECK(the_try, call)                      \
    do {                                                 \
        int netkit_checked = (call);                     \
        if (netkit_checked < 0) {                        \
            NETKIT_RAISE_TO(&(the_try), netkit_checked); \
        }                                                \
    } while (0)
#endif /* NETKIT_WITH_TRY */
#endif /* NETKIT_H */

#if defined(NETKIT_IMPLEMENTATION) && !defined(NETKIT_IMPLEMENTATION_DONE)
#define NETKIT_IMPLEMENTATION_DONE

/* ---- src/base/platform.h ---- */
/* Platform: what system this is, its headers, and the seam to the world.
 *
 * Every call that leaves the process goes through one NKI_SYS_ macro (src/os/seam_*.h),
 * and each of those asks NKI_FAIL(name) first, which is 0 unless a test says otherwise:
 * so a test can fail the n-th call of any kind, and see every one of them.
 * NKI_CLIP(name, len) lets it shorten transfers, NKI_MASK(name, bits) hide what the kernel can. */

#if defined(_MSC_VER)
#pragma warning(push)
#pragma warning(disable : 4127) /* do {} while (0) has a constant condition by design */
#pragma warning(disable : 4505) /* with NETKIT_STATIC not every function is used */
#endif

#if defined(_WIN32)
#define NKI_WINDOWS 1
#else
#define NKI_WINDOWS 0
#endif
#define NKI_POSIX (!NKI_WINDOWS)

#if defined(__linux__)
#define NKI_LINUX 1
#else
#define NKI_LINUX 0
#endif

#if defined(__APPLE__)
#define NKI_APPLE 1
#else
#define NKI_APPLE 0
#endif

#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__) || \
    defined(__DragonFly__)
#define NKI_BSD 1
#else
#define NKI_BSD 0
#endif

#define NKI_HAS_EPOLL NKI_LINUX
#define NKI_HAS_POLL NKI_POSIX
#define NKI_HAS_AFD NKI_WINDOWS
#define NKI_HAS_WSAPOLL NKI_WINDOWS

/* Kqueues that have EVFILT_USER in every version; OpenBSD and NetBSD have poll. And by
 * NETKIT_FORCE_KQUEUE on Linux, over libkqueue and without what macOS has not, so that the code for
 * there can be tested here. */
#if NKI_APPLE || defined(__FreeBSD__) || defined(__DragonFly__) || defined(NETKIT_FORCE_KQUEUE)
#define NKI_HAS_KQUEUE 1
#else
#define NKI_HAS_KQUEUE 0
#endif

#if NKI_LINUX && !defined(NETKIT_FORCE_KQUEUE)
#define NKI_HAS_EVENTFD 1
#else
#define NKI_HAS_EVENTFD 0
#endif

/* SOCK_NONBLOCK, SOCK_CLOEXEC and accept4: a socket is born as it should be. */
#if NKI_POSIX && !NKI_APPLE && !defined(NETKIT_FORCE_KQUEUE)
#define NKI_HAS_SOCK_FLAGS 1
#else
#define NKI_HAS_SOCK_FLAGS 0
#endif

/* The ring is shared with the kernel, which needs atomics. */
#if NKI_LINUX && defined(__GNUC__) && !defined(NETKIT_NO_URING)
#define NKI_HAS_URING 1
#else
#define NKI_HAS_URING 0
#endif

#ifndef NKI_HAS_MMSG /* recvmmsg, sendmmsg */
#define NKI_HAS_MMSG NKI_LINUX
#endif

#ifdef NETKIT_NO_THREADS
#define NKI_HAS_THREADS 0
#else
#define NKI_HAS_THREADS 1
#endif

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if NKI_POSIX
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#if NKI_HAS_THREADS
#include <pthread.h>
#endif
#endif

/* Winsock 2 must come before windows.h, which otherwise brings Winsock 1. */
#if NKI_WINDOWS
#if defined(_WINSOCKAPI_) && !defined(_WINSOCK2API_)
#error "include netkit.h, or winsock2.h, before windows.h in the file with NETKIT_IMPLEMENTATION"
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>
#include <ntsecapi.h>
#if defined(_MSC_VER)
#pragma comment(lib, "ws2_32")
#pragma comment(lib, "advapi32") /* random numbers */
#endif
#endif

#if NKI_HAS_KQUEUE
#include <sys/event.h>
#endif

#if NKI_LINUX
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#if defined(__GLIBC__) && !defined(__USE_GNU)
#error "include netkit.h before any system header in the file with NETKIT_IMPLEMENTATION"
#endif
#endif

#ifndef NKI_FAIL
#define NKI_FAIL(name) 0
#endif
#ifndef NKI_CLIP
#define NKI_CLIP(name, len) (len)
#endif
#ifndef NKI_MASK
#define NKI_MASK(name, bits) (bits)
#endif

#ifndef NETKIT_ASSERT
#include <assert.h>
#define NETKIT_ASSERT(cond) assert(cond)
#endif

#if defined(NETKIT_MALLOC) != defined(NETKIT_FREE)
#error "define both NETKIT_MALLOC and NETKIT_FREE, or neither"
#endif
#ifndef NETKIT_MALLOC
#define NETKIT_MALLOC(size) malloc(size)
#define NETKIT_FREE(memory) free(memory)
#endif

#define NKI_UNUSED(x) ((void)(x))
#define NKI_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NKI_MIN(a, b) ((a) < (b) ? (a) : (b))
#define NKI_MAX(a, b) ((a) > (b) ? (a) : (b))
#define NKI_STATIC_ASSERT(name, cond) typedef char nki_assert_##name[(cond) ? 1 : -1]

#if defined(_MSC_VER)
#define NKI_LIKELY(x) (x)
#define NKI_UNLIKELY(x) (x)
#define NKI_COLD
#define NKI_HOT __inline
#define NKI_OUTLINE __declspec(noinline)
#elif defined(__GNUC__)
#define NKI_LIKELY(x) __builtin_expect(!!(x), 1)
#define NKI_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define NKI_COLD __attribute__((cold, noinline))
#define NKI_HOT __attribute__((always_inline)) __inline__
#define NKI_OUTLINE __attribute__((noinline))
#else
#define NKI_LIKELY(x) (x)
#define NKI_UNLIKELY(x) (x)
#define NKI_COLD
#define NKI_HOT
#define NKI_OUTLINE
#endif

#define NKI_NS_PER_US 1000u
#define NKI_NS_PER_MS 1000000u
#define NKI_NS_PER_S 1000000000u
#define NKI_NEVER UINT64_MAX /* as a due time */

/* ---- src/base/atomic.h ---- */
/* Atomics: the few operations the library needs, each with the order it needs.
 *
 * `__atomic` builtins exist in gcc and clang for C99 and C++11 alike, where
 * <stdatomic.h> does not. Without threads, loads and stores keep their order where the compiler
 * can say it, for signal handlers and the kernel's side of a ring; the rest are plain accesses,
 * so that a processor without such instructions needs no library for them. */

#if defined(_MSC_VER)
#define nki_atomic_load(p) nki_msvc_load((p), sizeof *(p))
#define nki_atomic_load_relaxed(p) nki_msvc_peek((p), sizeof *(p))
#define nki_atomic_store(p, v) nki_msvc_store((p), sizeof *(p), (v))
#define nki_atomic_store_relaxed(p, v) nki_msvc_store((p), sizeof *(p), (v))
#define nki_atomic_load_ptr(p) InterlockedCompareExchangePointer((PVOID volatile *)(p), NULL, NULL)
#define nki_atomic_load_ptr_relaxed(p) nki_atomic_load_ptr(p)
#elif defined(__GNUC__)
#define nki_atomic_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define nki_atomic_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define nki_atomic_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define nki_atomic_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define nki_atomic_load_ptr(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define nki_atomic_load_ptr_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define nki_atomic_fence() __sync_synchronize()
#elif !NKI_HAS_THREADS
#define nki_atomic_load(p) (*(p))
#define nki_atomic_load_relaxed(p) (*(p))
#define nki_atomic_store(p, v) ((void)(*(p) = (v)))
#define nki_atomic_store_relaxed(p, v) ((void)(*(p) = (v)))
#define nki_atomic_load_ptr(p) (*(p))
#define nki_atomic_load_ptr_relaxed(p) (*(p))
#define nki_atomic_fence() ((void)0)
#endif

/* Where there are no builtins without a type: a number of 32 bits or one as wide as a pointer. The
 * calls are fences, too, on every processor of Windows. */
#if defined(_MSC_VER)
static size_t nki_msvc_load(const void *p, size_t size) {
    void *at;
    memcpy(&at, &p, sizeof at); /* without its const: nothing is changed */
    if (size == sizeof(LONG)) {
        return (size_t)(ULONG)InterlockedCompareExchange((volatile LONG *)at, 0, 0);
    }
    return (size_t)InterlockedCompareExchangePointer((PVOID volatile *)at, NULL, NULL);
}
/* One access, and no fence: every call of the loop begins with it. */
static size_t nki_msvc_peek(const void *p, size_t size) {
    return size == sizeof(LONG) ? (size_t) * (const volatile ULONG *)p
                                : *(const volatile size_t *)p;
}
static void nki_msvc_store(void *p, size_t size, size_t v) {
    if (size == sizeof(LONG)) {
        (void)InterlockedExchange((volatile LONG *)p, (LONG)(ULONG)v);
    } else {
        void *value;
        memcpy(&value, &v, sizeof value);
        (void)InterlockedExchangePointer((PVOID volatile *)p, value);
    }
}
#endif

#if !NKI_HAS_THREADS
static uint32_t nki_atomic_exchange(uint32_t *p, uint32_t v) {
    uint32_t old = *p;
    *p = v;
    return old;
}
static uint32_t nki_atomic_add(uint32_t *p, uint32_t v) {
    return *p += v;
}
static bool nki_atomic_cas_size(size_t *p, size_t *expected, size_t v) {
    NKI_UNUSED(expected);
    *p = v;
    return true;
}
static bool nki_atomic_cas_ptr(void **p, void **expected, void *v) {
    NKI_UNUSED(expected);
    *p = v;
    return true;
}
static void *nki_atomic_exchange_ptr(void **p, void *v) {
    void *old = *p;
    *p = v;
    return old;
}
#elif defined(_MSC_VER)
static uint32_t nki_atomic_exchange(uint32_t *p, uint32_t v) {
    return (uint32_t)InterlockedExchange((volatile LONG *)(void *)p, (LONG)v);
}
/* Returns the new value. */
static uint32_t nki_atomic_add(uint32_t *p, uint32_t v) {
    return (uint32_t)InterlockedExchangeAdd((volatile LONG *)(void *)p, (LONG)v) + v;
}
static bool nki_atomic_cas_ptr(void **p, void **expected, void *v) {
    void *was = *expected;
    *expected = InterlockedCompareExchangePointer((PVOID volatile *)p, v, was);
    return *expected == was;
}
static bool nki_atomic_cas_size(size_t *p, size_t *expected, size_t v) {
    void *was;
    void *value;
    memcpy(&was, expected, sizeof was);
    memcpy(&value, &v, sizeof value);
    bool is_done = nki_atomic_cas_ptr((void **)(void *)p, &was, value);
    memcpy(expected, &was, sizeof was);
    return is_done;
}
static void *nki_atomic_exchange_ptr(void **p, void *v) {
    return InterlockedExchangePointer((PVOID volatile *)p, v);
}
#elif defined(__GNUC__)
/* Sequentially consistent: the wake flag is a store that must not pass the loads behind it. */
static uint32_t nki_atomic_exchange(uint32_t *p, uint32_t v) {
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
/* Returns the new value. */
static uint32_t nki_atomic_add(uint32_t *p, uint32_t v) {
    return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL);
}
static bool nki_atomic_cas_size(size_t *p, size_t *expected, size_t v) {
    return __atomic_compare_exchange_n(p, expected, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
static bool nki_atomic_cas_ptr(void **p, void **expected, void *v) {
    return __atomic_compare_exchange_n(p, expected, v, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
static void *nki_atomic_exchange_ptr(void **p, void *v) {
    return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL);
}
#else
#error "no atomics for this compiler yet: define NETKIT_NO_THREADS"
#endif

/* ---- src/base/error.c ---- */
/* Errors: names and texts out of the one table in src/api/error.h. */

NETKIT_API int netkit_version(void) {
    return NETKIT_VERSION_NUMBER;
}

typedef struct nki_error_row {
    const char *name;
    const char *text;
    bool is_retryable;
} nki_error_row;

/* Row n is the code -n: the table's values are checked to run without a gap. */
static const nki_error_row nki_error_rows[] = {{"NETKIT_OK", "no error", false},
#define NKI_ERROR_ROW(name, value, text, retryable) {#name, text, (retryable) != 0},
                                               NETKIT_ERRORS(NKI_ERROR_ROW)
#undef NKI_ERROR_ROW
};

NKI_STATIC_ASSERT(error_rows, NKI_COUNT(nki_error_rows) == 1 - (int)NETKIT_E_LAST_);

static const nki_error_row *nki_error_find(int code) {
    static const nki_error_row unknown = {"NETKIT_E_UNKNOWN", "unknown error", false};
    if (code >= 0) {
        return &nki_error_rows[0];
    }
    return code < (int)NETKIT_E_LAST_ ? &unknown : &nki_error_rows[-code];
}

NETKIT_API const char *netkit_error_name(int code) {
    return nki_error_find(code)->name;
}

NETKIT_API const char *netkit_error_text(int code) {
    return nki_error_find(code)->text;
}

NETKIT_API bool netkit_error_is_retryable(int code) {
    return nki_error_find(code)->is_retryable;
}

/* ---- src/base/memory.c ---- */
/* Memory: the front end of the allocator a program may have given. */

static void *nki_default_alloc(size_t size, void *user) {
    NKI_UNUSED(user);
    return NETKIT_MALLOC(size);
}

static void nki_default_free(void *memory, size_t size, void *user) {
    NKI_UNUSED(size);
    NKI_UNUSED(user);
    NETKIT_FREE(memory);
}

/* Fill in malloc and free; both or neither must have been given. */
static int nki_allocator_init(netkit_allocator *out, const netkit_allocator *given) {
    if ((given->alloc == NULL) != (given->free == NULL)) {
        return NETKIT_E_INVALID;
    }
    *out = *given;
    if (out->alloc == NULL) {
        out->alloc = nki_default_alloc;
        out->free = nki_default_free;
    }
    return NETKIT_OK;
}

static void *nki_alloc(const netkit_allocator *a, size_t size) {
    return a->alloc(size, a->user);
}

static void *nki_alloc_zero(const netkit_allocator *a, size_t size) {
    void *memory = a->alloc(size, a->user);
    if (memory != NULL) {
        memset(memory, 0, size);
    }
    return memory;
}

static void nki_free(const netkit_allocator *a, void *memory, size_t size) {
    if (memory != NULL) {
        a->free(memory, size, a->user);
    }
}

/* Extension memory: zeroed and aligned to 16 whatever the allocator's alignment. It stands behind
 * a head that says how far the start was moved. */
enum {
    NKI_EXT_ALIGN = 16
};

static size_t nki_ext_bytes(size_t size) {
    return size + 2 * (size_t)NKI_EXT_ALIGN;
}

static int nki_ext_create(const netkit_allocator *a, size_t size, void **out) {
    *out = NULL;
    if (size == 0) {
        return NETKIT_OK;
    }
    unsigned char *memory = (unsigned char *)nki_alloc_zero(a, nki_ext_bytes(size));
    if (memory == NULL) {
        return NETKIT_E_NOMEM;
    }
    uintptr_t at = (uintptr_t)memory + sizeof(void *);
    size_t skip = sizeof(void *) + (NKI_EXT_ALIGN - at % NKI_EXT_ALIGN) % NKI_EXT_ALIGN;
    unsigned char *ext = memory + skip;
    memcpy(ext - sizeof memory, &memory, sizeof memory);
    *out = ext;
    return NETKIT_OK;
}

static void nki_ext_free(const netkit_allocator *a, void *ext, size_t size) {
    if (ext != NULL) {
        unsigned char *memory;
        memcpy(&memory, (unsigned char *)ext - sizeof memory, sizeof memory);
        nki_free(a, memory, nki_ext_bytes(size));
    }
}

/* ---- src/base/addr.c ---- */
/* Addresses: the parser, the formatter, equality and the hash. All of it is pure:
 * bytes in, a value out, no system call, no locale, no allocation. What only the
 * system knows (an interface's number, how long a unix path may be) comes in as
 * nki_addr_rules or is left to the caller as the span of a zone's name.
 *
 * The scanner never reads a byte at or beyond `len`, and it accepts a byte only while
 * some address begins with everything up to it. So where it stops is the error offset,
 * exactly: the text up to there can be the start of an address, one byte more cannot.
 *
 * IPv6 text follows RFC 4291 section 2.2, written back as RFC 5952 section 4 wants it
 * (lower case, no leading zeros, "::" for the first of the longest runs of two or more
 * zero groups) and 5 (v4-mapped addresses end in dotted decimal). A leading zero in a
 * decimal part is refused because some parsers read it as octal: "010.0.0.1" would be
 * a different machine to a filter and to the connect behind it.
 *
 * A ':' in a zone is refused: Linux cuts a name there when it looks it up, so that
 * "eth0:typo" would be eth0 (SIOCGIFINDEX, net/core/dev_ioctl.c). */

/* What a system can take. */
typedef struct nki_addr_rules {
    size_t path_max;   /* bytes of a unix path or abstract name */
    bool has_abstract; /* whether there are abstract names */
} nki_addr_rules;

/* Where the scanner is: at the first byte it has not accepted. */
typedef struct nki_addr_scanner {
    const char *text;
    size_t len;
    size_t at;
    size_t zone_at; /* a zone that is a name and not a number; zone_len 0: none */
    size_t zone_len;
} nki_addr_scanner;

static const uint8_t nki_addr_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool nki_ip_is_mapped(const uint8_t ip[16]) {
    return memcmp(ip, nki_addr_mapped, sizeof(nki_addr_mapped)) == 0;
}

/* The byte here, or -1 at the end. */
static int nki_scan_peek(const nki_addr_scanner *s) {
    return s->at < s->len ? (unsigned char)s->text[s->at] : -1;
}

static bool nki_scan_take(nki_addr_scanner *s, char c) {
    if (nki_scan_peek(s) != c) {
        return false;
    }
    s->at++;
    return true;
}

static bool nki_scan_word(nki_addr_scanner *s, const char *word) {
    while (*word != 0) {
        if (!nki_scan_take(s, *word++)) {
            return false;
        }
    }
    return true;
}

/* Take a decimal number up to `max` (9 or more). Stops before the digit after a
 * leading zero or that would pass `max`: what the caller expects next is not there,
 * and the offset is that digit's. */
static bool nki_scan_decimal(nki_addr_scanner *s, uint32_t max, uint32_t *out) {
    size_t start = s->at;
    uint32_t value = 0;
    for (;;) {
        int c = nki_scan_peek(s);
        if (c < '0' || c > '9' || (value == 0 && s->at > start)) {
            break;
        }
        uint32_t digit = (uint32_t)c - '0';
        if (value > (max - digit) / 10) {
            break;
        }
        value = value * 10 + digit;
        s->at++;
    }
    *out = value;
    return s->at > start;
}

static int nki_hex_digit(int c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Take at most `digits_max` hexadecimal digits; how many there were. */
static int nki_scan_hex(nki_addr_scanner *s, int digits_max, uint32_t *out) {
    int digits = 0;
    *out = 0;
    while (digits < digits_max) {
        int digit = nki_hex_digit(nki_scan_peek(s));
        if (digit < 0) {
            break;
        }
        *out = *out * 16 + (uint32_t)digit;
        s->at++;
        digits++;
    }
    return digits;
}

static bool nki_scan_ipv4(nki_addr_scanner *s, uint8_t *ip) {
    for (int i = 0; i < 4; i++) {
        uint32_t part;
        if ((i > 0 && !nki_scan_take(s, '.')) || !nki_scan_decimal(s, 255, &part)) {
            return false;
        }
        ip[i] = (uint8_t)part;
    }
    return true;
}

/* The groups of an IPv6 address were read to a '.': read the last one again as the
 * first part of an IPv4 address. Until the dot it was a good group of hexadecimal
 * digits, so an error is never before the dot. */
static bool nki_scan_ipv4_tail(nki_addr_scanner *s, size_t group_at, uint8_t *ip) {
    size_t dot_at = s->at;
    s->at = group_at;
    bool is_good = nki_scan_ipv4(s, ip);
    s->at = NKI_MAX(s->at, dot_at);
    return is_good;
}

/* Read groups until something else stands there. `*gap` is where "::" stands in `ip`,
 * or 16 when there is none yet; `*used` counts the bytes written. A gap stands for at
 * least one group, which leaves room for seven. */
static bool nki_scan_groups(nki_addr_scanner *s, uint8_t ip[16], size_t *used, size_t *gap) {
    while (*used < (*gap < 16 ? 14u : 16u)) {
        size_t group_at = s->at;
        uint32_t group;
        if (nki_scan_hex(s, 4, &group) == 0) {
            return *used == *gap; /* an end is fine right behind the gap alone */
        }
        if (nki_scan_peek(s) == '.') {
            if (*gap < 16 ? *used > 10 : *used != 12) {
                return false;
            }
            *used += 4;
            return nki_scan_ipv4_tail(s, group_at, ip + *used - 4);
        }
        ip[*used] = (uint8_t)(group >> 8);
        ip[*used + 1] = (uint8_t)(group & 0xff);
        *used += 2;
        if (*used >= (*gap < 16 ? 14u : 16u) || !nki_scan_take(s, ':')) {
            break;
        }
        if (*gap == 16 && nki_scan_take(s, ':')) {
            *gap = *used;
        }
    }
    return true;
}

static bool nki_scan_ipv6(nki_addr_scanner *s, uint8_t ip[16]) {
    size_t used = 0;
    size_t gap = 16;
    if (nki_scan_take(s, ':')) {
        if (!nki_scan_take(s, ':')) {
            return false;
        }
        gap = 0;
    }
    if (!nki_scan_groups(s, ip, &used, &gap) || (gap == 16 && used < 16)) {
        return false;
    }
    if (gap < 16) {
        size_t tail = used - gap;
        memmove(ip + 16 - tail, ip + gap, tail);
        memset(ip + gap, 0, 16 - used);
    }
    return true;
}

/* A zone that reads as a number from 1 in plain digits is that number; everything else
 * is a name, even "0" and "007", which Linux allows. */
static bool nki_scan_zone(nki_addr_scanner *s, uint32_t *scope) {
    nki_addr_scanner number;
    size_t start = s->at;
    for (;;) {
        int c = nki_scan_peek(s);
        if (c <= ' ' || c > '~' || strchr("%:/[]", c) != NULL) {
            break;
        }
        s->at++;
    }
    if (s->at == start) {
        return false;
    }
    memset(&number, 0, sizeof(number));
    number.text = s->text;
    number.len = s->at;
    number.at = start;
    if (!nki_scan_decimal(&number, UINT32_MAX, scope) || number.at < number.len || *scope == 0) {
        *scope = 0;
        s->zone_at = start;
        s->zone_len = s->at - start;
    }
    return true;
}

static bool nki_scan_ip(nki_addr_scanner *s, netkit_addr *out) {
    int first = nki_scan_peek(s);
    uint32_t port;
    out->family = first == '[' || first == ':' ? NETKIT_AF_IPV6 : NETKIT_AF_IPV4;
    out->is_any = first == ':';
    if (nki_scan_take(s, '[')) {
        if (!nki_scan_ipv6(s, out->ip)) {
            return false;
        }
        /* An IPv4 address has no zone, whatever it is dressed as. */
        if (!nki_ip_is_mapped(out->ip) && nki_scan_take(s, '%') && !nki_scan_zone(s, &out->scope)) {
            return false;
        }
        if (!nki_scan_take(s, ']')) {
            return false;
        }
    } else if (first != ':' && !nki_scan_ipv4(s, out->ip)) {
        return false;
    }
    if (!nki_scan_take(s, ':') || !nki_scan_decimal(s, 65535, &port)) {
        return false;
    }
    out->port = (uint16_t)port;
    return s->at == s->len;
}

/* Take one byte of a unix path, or of an abstract name, where "\xHH" is any byte. A
 * control character is refused: it is a line end left on a setting far more often than
 * a name, and netkit_addr_from_path takes it from those who mean it. */
static bool nki_scan_path_byte(nki_addr_scanner *s, bool is_abstract, char *out) {
    int c = nki_scan_peek(s);
    if (c < ' ' || c == 127 || (is_abstract && c > '~')) {
        return false;
    }
    *out = s->text[s->at++];
    if (is_abstract && c == '\\') {
        uint32_t byte;
        if (!nki_scan_take(s, 'x') || nki_scan_hex(s, 2, &byte) < 2) {
            return false;
        }
        *out = (char)(unsigned char)byte;
    }
    return true;
}

static int nki_scan_unix(nki_addr_scanner *s, const nki_addr_rules *rules, netkit_addr *out) {
    size_t used = 0;
    out->family = NETKIT_AF_UNIX;
    if (!nki_scan_word(s, "unix:")) {
        return NETKIT_E_INVALID;
    }
    if (nki_scan_peek(s) == '@') {
        if (!rules->has_abstract) {
            return NETKIT_E_NOSYS;
        }
        s->at++;
        out->is_abstract = true;
    }
    while (s->at < s->len) {
        if (used == rules->path_max) {
            return NETKIT_E_TOOBIG;
        }
        if (!nki_scan_path_byte(s, out->is_abstract, &out->path[used])) {
            return NETKIT_E_INVALID;
        }
        used++;
    }
    out->path_len = (uint8_t)used;
    return used == 0 ? NETKIT_E_INVALID : NETKIT_OK;
}

/* Read an address whole. On success a zone that is a name may be left in the scanner
 * for the caller to look up; on failure *out is zero and s->at is the offset. */
static int nki_addr_scan(netkit_addr *out, nki_addr_scanner *s, const nki_addr_rules *rules) {
    int code;
    memset(out, 0, sizeof(*out));
    if (nki_scan_peek(s) == 'u') {
        code = nki_scan_unix(s, rules, out);
    } else {
        code = nki_scan_ip(s, out) ? NETKIT_OK : NETKIT_E_INVALID;
    }
    if (code != NETKIT_OK) {
        memset(out, 0, sizeof(*out));
    }
    return code;
}

/* Text on its way out; what does not fit is counted, not written. */
typedef struct nki_addr_writer {
    char *text;
    size_t size;
    size_t len;
} nki_addr_writer;

static void nki_write_char(nki_addr_writer *w, char c) {
    if (w->len < w->size) {
        w->text[w->len] = c;
    }
    w->len++;
}

static void nki_write_text(nki_addr_writer *w, const char *text) {
    while (*text != 0) {
        nki_write_char(w, *text++);
    }
}

static void nki_write_number(nki_addr_writer *w, uint32_t value, uint32_t base) {
    char digits[10];
    int count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    while (count > 0) {
        nki_write_char(w, digits[--count]);
    }
}

static void nki_write_ipv4(nki_addr_writer *w, const uint8_t *ip) {
    for (int i = 0; i < 4; i++) {
        if (i > 0) {
            nki_write_char(w, '.');
        }
        nki_write_number(w, ip[i], 10);
    }
}

static uint32_t nki_ip_group(const uint8_t ip[16], int index) {
    size_t at = 2 * (size_t)index;
    return ((uint32_t)ip[at] << 8) | ip[at + 1];
}

/* The first of the longest runs of zero groups; its length is 0 when none has two. */
static int nki_ip_zero_run(const uint8_t ip[16], int *len) {
    int best = 8;
    *len = 1;
    for (int i = 0; i < 8; i++) {
        int end = i;
        while (end < 8 && nki_ip_group(ip, end) == 0) {
            end++;
        }
        if (end - i > *len) {
            best = i;
            *len = end - i;
        }
    }
    return best;
}

static void nki_write_ipv6(nki_addr_writer *w, const uint8_t ip[16]) {
    int run_len;
    int run = nki_ip_zero_run(ip, &run_len);
    if (nki_ip_is_mapped(ip)) {
        nki_write_text(w, "::ffff:");
        nki_write_ipv4(w, ip + 12);
        return;
    }
    for (int i = 0; i < 8; i++) {
        if (i == run) {
            nki_write_text(w, "::");
            i += run_len - 1;
            continue;
        }
        if (i > 0 && i != run + run_len) {
            nki_write_char(w, ':');
        }
        nki_write_number(w, nki_ip_group(ip, i), 16);
    }
}

static void nki_write_path(nki_addr_writer *w, const netkit_addr *addr) {
    nki_write_text(w, "unix:");
    if (addr->is_abstract) {
        nki_write_char(w, '@');
    } else if (addr->path_len > 0 && addr->path[0] == '@') {
        nki_write_text(w, "./"); /* the same file, and not an abstract name */
    }
    for (size_t i = 0; i < addr->path_len; i++) {
        unsigned char c = (unsigned char)addr->path[i];
        if (c < ' ' || c == 127 || (addr->is_abstract && (c > '~' || c == '\\'))) {
            nki_write_text(w, c < 16 ? "\\x0" : "\\x");
            nki_write_number(w, c, 16);
        } else {
            nki_write_char(w, addr->path[i]);
        }
    }
}

static void nki_write_ip(nki_addr_writer *w, const netkit_addr *addr) {
    if (addr->family == NETKIT_AF_IPV4) {
        nki_write_ipv4(w, addr->ip);
        return;
    }
    nki_write_ipv6(w, addr->ip);
    if (addr->scope != 0 && !nki_ip_is_mapped(addr->ip)) {
        nki_write_char(w, '%');
        nki_write_number(w, addr->scope, 10);
    }
}

static void nki_write_endpoint(nki_addr_writer *w, const netkit_addr *addr) {
    bool is_ipv6 = addr->family == NETKIT_AF_IPV6;
    if (!is_ipv6 || !addr->is_any) {
        nki_write_text(w, is_ipv6 ? "[" : "");
        nki_write_ip(w, addr);
        nki_write_text(w, is_ipv6 ? "]" : "");
    }
    nki_write_char(w, ':');
    nki_write_number(w, addr->port, 10);
}

static bool nki_addr_is_ip(const netkit_addr *addr) {
    return addr->family == NETKIT_AF_IPV4 || addr->family == NETKIT_AF_IPV6;
}

/* Format with or without the port. A caller's size is a limit, never a promise that
 * the bytes are there: nothing is written behind the end of the text. */
static int nki_addr_write(const netkit_addr *addr, char *text, size_t size, bool is_ip_alone) {
    nki_addr_writer w;
    if (text == NULL) {
        return NETKIT_E_INVALID;
    }
    w.text = text;
    w.size = size;
    w.len = 0;
    if (addr != NULL && nki_addr_is_ip(addr)) {
        if (is_ip_alone) {
            nki_write_ip(&w, addr);
        } else {
            nki_write_endpoint(&w, addr);
        }
    } else if (addr != NULL && addr->family == NETKIT_AF_UNIX && !is_ip_alone &&
               addr->path_len <= NETKIT_UNIX_PATH_MAX) {
        nki_write_path(&w, addr);
    }
    if (w.len == 0 || w.len >= size) {
        if (size > 0) {
            text[0] = 0;
        }
        return w.len == 0 ? NETKIT_E_INVALID : NETKIT_E_TOOBIG;
    }
    text[w.len] = 0;
    return (int)w.len;
}

NETKIT_API int netkit_addr_format(const netkit_addr *addr, char *text, size_t size) {
    return nki_addr_write(addr, text, size, false);
}

NETKIT_API int netkit_addr_format_ip(const netkit_addr *addr, char *text, size_t size) {
    return nki_addr_write(addr, text, size, true);
}

enum {
    NKI_ADDR_KEY_MAX = 2 + NETKIT_UNIX_PATH_MAX
};

/* Write what makes an address what it is as bytes, the same on every machine. Equality
 * and the hash both work on these, so they cannot disagree. Returns how many. */
static size_t nki_addr_key(const netkit_addr *addr, uint8_t key[NKI_ADDR_KEY_MAX]) {
    bool is_ipv4 = addr->family == NETKIT_AF_IPV4 ||
                   (addr->family == NETKIT_AF_IPV6 && nki_ip_is_mapped(addr->ip));
    uint32_t scope = is_ipv4 ? 0 : addr->scope;
    size_t len;
    key[0] = is_ipv4 ? (uint8_t)NETKIT_AF_IPV4 : addr->family;
    if (addr->family == NETKIT_AF_UNIX) {
        len = NKI_MIN(addr->path_len, (size_t)NETKIT_UNIX_PATH_MAX);
        key[1] = addr->is_abstract;
        memcpy(key + 2, addr->path, len);
        return 2 + len;
    }
    if (!nki_addr_is_ip(addr)) {
        return 1;
    }
    key[1] = !is_ipv4 && addr->is_any;
    key[2] = (uint8_t)(addr->port >> 8);
    key[3] = (uint8_t)(addr->port & 0xff);
    for (int i = 0; i < 4; i++) {
        key[4 + i] = (uint8_t)((scope >> (8 * i)) & 0xff);
    }
    len = is_ipv4 ? 4 : 16;
    memcpy(key + 8, addr->family == NETKIT_AF_IPV4 ? addr->ip : addr->ip + 16 - len, len);
    return 8 + len;
}

NETKIT_API bool netkit_addr_equal(const netkit_addr *a, const netkit_addr *b) {
    uint8_t key_a[NKI_ADDR_KEY_MAX];
    uint8_t key_b[NKI_ADDR_KEY_MAX];
    size_t len;
    if (a == NULL || b == NULL) {
        return false;
    }
    len = nki_addr_key(a, key_a);
    return nki_addr_key(b, key_b) == len && memcmp(key_a, key_b, len) == 0;
}

static uint64_t nki_rotate(uint64_t x, int bits) {
    return (x << bits) | (x >> (64 - bits));
}

static void nki_sip_rounds(uint64_t v[4], int rounds) {
    while (rounds-- > 0) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = nki_rotate(v[1], 13) ^ v[0];
        v[3] = nki_rotate(v[3], 16) ^ v[2];
        v[0] = nki_rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = nki_rotate(v[1], 17) ^ v[2];
        v[3] = nki_rotate(v[3], 21) ^ v[0];
        v[2] = nki_rotate(v[2], 32);
    }
}

/* SipHash (Aumasson and Bernstein, 2012) with the given rounds: strangers who do not
 * know the key cannot make addresses meet in one row of a table. */
static uint64_t nki_siphash(const uint8_t *data, size_t len, uint64_t k0, uint64_t k1, int rounds,
                            int last_rounds) {
    uint64_t v[4];
    v[0] = k0 ^ UINT64_C(0x736f6d6570736575);
    v[1] = k1 ^ UINT64_C(0x646f72616e646f6d);
    v[2] = k0 ^ UINT64_C(0x6c7967656e657261);
    v[3] = k1 ^ UINT64_C(0x7465646279746573);
    for (size_t i = 0; i <= len; i += 8) {
        uint64_t word = i + 8 > len ? (uint64_t)len << 56 : 0;
        for (size_t j = 0; j < 8 && i + j < len; j++) {
            word |= (uint64_t)data[i + j] << (8 * j);
        }
        v[3] ^= word;
        nki_sip_rounds(v, rounds);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    nki_sip_rounds(v, last_rounds);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

NETKIT_API uint64_t netkit_addr_hash(const netkit_addr *addr, uint64_t seed) {
    uint8_t key[NKI_ADDR_KEY_MAX];
    if (addr == NULL) {
        return 0;
    }
    return nki_siphash(key, nki_addr_key(addr, key), seed, ~seed, 1, 3);
}

/* Both makers finish before they write *out: the bytes given may lie in it. */
NETKIT_API int netkit_addr_from_ip(netkit_addr *out, const void *ip, size_t ip_len, uint16_t port,
                                   uint32_t scope) {
    netkit_addr addr;
    int code = NETKIT_E_INVALID;
    if (out == NULL) {
        return code;
    }
    memset(&addr, 0, sizeof(addr));
    if (ip != NULL && (ip_len == 4 || ip_len == 16)) {
        memcpy(addr.ip, ip, ip_len);
        if (scope == 0 || (ip_len == 16 && !nki_ip_is_mapped(addr.ip))) {
            code = NETKIT_OK;
        }
    }
    if (code == NETKIT_OK) {
        addr.family = ip_len == 4 ? NETKIT_AF_IPV4 : NETKIT_AF_IPV6;
        addr.port = port;
        addr.scope = scope;
    } else {
        memset(&addr, 0, sizeof(addr));
    }
    *out = addr;
    return code;
}

/* Check the bytes of a unix address against a system's rules. */
static int nki_addr_check_path(const char *path, size_t len, bool is_abstract,
                               const nki_addr_rules *rules) {
    if (is_abstract && !rules->has_abstract) {
        return NETKIT_E_NOSYS;
    }
    if (path == NULL || len == 0) {
        return NETKIT_E_INVALID;
    }
    if (len > rules->path_max) {
        return NETKIT_E_TOOBIG;
    }
    return !is_abstract && memchr(path, 0, len) != NULL ? NETKIT_E_INVALID : NETKIT_OK;
}

static int nki_addr_set_path(netkit_addr *out, const char *path, size_t len, bool is_abstract,
                             const nki_addr_rules *rules) {
    netkit_addr addr;
    int code = nki_addr_check_path(path, len, is_abstract, rules);
    memset(&addr, 0, sizeof(addr));
    if (code == NETKIT_OK) {
        memcpy(addr.path, path, len);
        addr.family = NETKIT_AF_UNIX;
        addr.path_len = (uint8_t)len;
        addr.is_abstract = is_abstract;
    }
    *out = addr;
    return code;
}

/* ---- src/base/slots.c ---- */
/* Slots: where everything that has a handle lives.
 *
 * Slots stand in fixed slabs, so an object never moves. A slot's first word is the handle of
 * what lives in it: generation 32 bits, kind 8, slot 24, so that one comparison tells whether a
 * handle is alive, of this loop and of the right kind. A free slot has kind 0, which no handle
 * has. Generations start at a random number and grow when a slot is freed; free slots are
 * reused first in, first out, to put as long as possible between two lives of one. Slabs are
 * aligned to a cache line: a small object is in one line, not two. What of an object is seldom
 * looked at may lie beside its slot, behind the slots of the slab (beside_size). */

enum {
    NKI_SLOT_BITS = 24,
    NKI_SLAB_BITS = 8,
    NKI_SLAB_SLOTS = 1 << NKI_SLAB_BITS,
    NKI_CACHE_LINE = 64
};

#define NKI_SLOT_MASK 0xFFFFFFu
#define NKI_NO_SLOT UINT32_MAX

typedef struct nki_slot {
    uint64_t id;   /* generation 32 | kind 8 | slot 24 */
    uint32_t next; /* while free: the next free slot */
} nki_slot;

typedef struct nki_slots {
    const netkit_allocator *allocator;
    unsigned char **slabs;
    uint32_t slabs_capacity; /* room in the array of slabs */
    uint32_t capacity;       /* slots that exist */
    uint32_t count_max;
    uint32_t count; /* slots in use */
    uint32_t slot_size;
    uint32_t beside_size; /* bytes of each slot behind all slots of its slab */
    uint32_t free_first;  /* first to be reused */
    uint32_t free_last;
    uint32_t first_generation;
} nki_slots;

static uint32_t nki_id_slot(uint64_t id) {
    return (uint32_t)id & NKI_SLOT_MASK;
}

static uint32_t nki_id_kind(uint64_t id) {
    return (uint32_t)id >> NKI_SLOT_BITS;
}

static void nki_slots_init(nki_slots *s, const netkit_allocator *allocator, uint32_t slot_size,
                           uint32_t count_max, uint32_t first_generation) {
    memset(s, 0, sizeof *s);
    s->allocator = allocator;
    s->slot_size = slot_size;
    s->count_max = NKI_MIN(count_max, NKI_SLOT_MASK);
    s->first_generation = first_generation;
    s->free_first = NKI_NO_SLOT;
    s->free_last = NKI_NO_SLOT;
}

static size_t nki_slab_used(const nki_slots *s) {
    return (size_t)(s->slot_size + s->beside_size) << NKI_SLAB_BITS;
}

/* A slab has room for its alignment, and at its end the address it was allocated at. */
static size_t nki_slab_bytes(const nki_slots *s) {
    return nki_slab_used(s) + NKI_CACHE_LINE;
}

static unsigned char *nki_slab_alloc(nki_slots *s) {
    unsigned char *memory = (unsigned char *)nki_alloc(s->allocator, nki_slab_bytes(s));
    if (memory == NULL) {
        return NULL;
    }
    size_t skip = (NKI_CACHE_LINE - (uintptr_t)memory % NKI_CACHE_LINE) % NKI_CACHE_LINE;
    unsigned char *slab = memory + skip;
    memcpy(slab + nki_slab_used(s), &memory, sizeof memory);
    return slab;
}

static void nki_slab_free(nki_slots *s, const unsigned char *slab) {
    unsigned char *memory;
    memcpy(&memory, slab + nki_slab_used(s), sizeof memory);
    nki_free(s->allocator, memory, nki_slab_bytes(s));
}

static void nki_slots_free_all(nki_slots *s) {
    uint32_t slabs = s->capacity >> NKI_SLAB_BITS;
    for (uint32_t i = 0; i < slabs; i++) {
        nki_slab_free(s, s->slabs[i]);
    }
    nki_free(s->allocator, s->slabs, s->slabs_capacity * sizeof *s->slabs);
    s->slabs = NULL;
    s->capacity = 0;
}

/* The slot of a number that exists. */
static nki_slot *nki_slots_at(const nki_slots *s, uint32_t slot) {
    size_t offset = (size_t)(slot & (NKI_SLAB_SLOTS - 1)) * s->slot_size;
    return (nki_slot *)(void *)(s->slabs[slot >> NKI_SLAB_BITS] + offset);
}

/* The beside_size bytes of a slot: not zeroed when the slot is taken. */
static void *nki_slots_beside(const nki_slots *s, uint32_t slot) {
    size_t offset = (size_t)(slot & (NKI_SLAB_SLOTS - 1)) * s->beside_size;
    return s->slabs[slot >> NKI_SLAB_BITS] + ((size_t)s->slot_size << NKI_SLAB_BITS) + offset;
}

/* What a handle names, or NULL. */
static void *nki_slots_find(const nki_slots *s, uint64_t id, uint32_t kind) {
    uint32_t slot = nki_id_slot(id);
    if (NKI_UNLIKELY(slot >= s->capacity || nki_id_kind(id) != kind)) {
        return NULL;
    }
    nki_slot *found = nki_slots_at(s, slot);
    return found->id == id ? found : NULL;
}

static void nki_slots_append_free(nki_slots *s, nki_slot *slot) {
    slot->next = NKI_NO_SLOT;
    if (s->free_last == NKI_NO_SLOT) {
        s->free_first = nki_id_slot(slot->id);
    } else {
        nki_slots_at(s, s->free_last)->next = nki_id_slot(slot->id);
    }
    s->free_last = nki_id_slot(slot->id);
}

static int nki_slots_grow_table(nki_slots *s) {
    uint32_t capacity = s->slabs_capacity == 0 ? 4 : s->slabs_capacity * 2;
    unsigned char **slabs =
        (unsigned char **)nki_alloc(s->allocator, capacity * sizeof(unsigned char *));
    if (slabs == NULL) {
        return NETKIT_E_NOMEM;
    }
    if (s->slabs != NULL) {
        memcpy(slabs, s->slabs, s->slabs_capacity * sizeof *slabs);
        nki_free(s->allocator, s->slabs, s->slabs_capacity * sizeof *slabs);
    }
    s->slabs = slabs;
    s->slabs_capacity = capacity;
    return NETKIT_OK;
}

static int nki_slots_grow(nki_slots *s) {
    uint32_t slab = s->capacity >> NKI_SLAB_BITS;
    if (slab == s->slabs_capacity && nki_slots_grow_table(s) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    s->slabs[slab] = nki_slab_alloc(s);
    if (s->slabs[slab] == NULL) {
        return NETKIT_E_NOMEM;
    }
    uint32_t first = s->capacity;
    s->capacity += NKI_SLAB_SLOTS;
    for (uint32_t i = first; i < s->capacity; i++) {
        nki_slot *slot = nki_slots_at(s, i);
        slot->id = (uint64_t)(s->first_generation + i) << 32 | i;
        nki_slots_append_free(s, slot);
    }
    return NETKIT_OK;
}

/* Take a slot, zeroed but for its id. Returns NETKIT_OK, NETKIT_E_FULL or NETKIT_E_NOMEM. */
static int nki_slots_take(nki_slots *s, uint32_t kind, void **out) {
    *out = NULL;
    if (s->count >= s->count_max) {
        return NETKIT_E_FULL;
    }
    if (s->free_first == NKI_NO_SLOT && nki_slots_grow(s) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    nki_slot *slot = nki_slots_at(s, s->free_first);
    s->free_first = slot->next;
    if (s->free_first == NKI_NO_SLOT) {
        s->free_last = NKI_NO_SLOT;
    }
    uint64_t id = slot->id | (uint64_t)kind << NKI_SLOT_BITS;
    memset(slot, 0, s->slot_size);
    slot->id = id;
    s->count++;
    *out = slot;
    return NETKIT_OK;
}

/* Give a slot back: its handle is stale from here on. */
static void nki_slots_give(nki_slots *s, void *object) {
    nki_slot *slot = (nki_slot *)object;
    uint32_t generation = (uint32_t)(slot->id >> 32) + 1;
    slot->id = (uint64_t)generation << 32 | nki_id_slot(slot->id);
    s->count--;
    nki_slots_append_free(s, slot);
}

/* ---- src/base/slotmap.c ---- */
/* The public face of slots.c. An object stands behind its slot, at a multiple of 16. */

enum {
    NKI_SLOTMAP_KIND = 1,
    NKI_SLOTMAP_HEAD = 16,
    NKI_SLOTMAP_COUNT = 32768,
    NKI_SLOTMAP_OBJECT_MAX = 1024 * 1024
};

NKI_STATIC_ASSERT(slotmap_head, sizeof(nki_slot) <= NKI_SLOTMAP_HEAD);

struct netkit_slotmap {
    nki_slots slots;
    netkit_allocator allocator;
};

NETKIT_API int netkit_slotmap_create(netkit_slotmap **out, const netkit_slotmap_desc *desc) {
    netkit_allocator allocator;
    *out = NULL;
    if (desc->object_size > NKI_SLOTMAP_OBJECT_MAX || desc->count_max >= NKI_SLOT_MASK) {
        return NETKIT_E_INVALID;
    }
    int error = nki_allocator_init(&allocator, &desc->allocator);
    if (error != NETKIT_OK) {
        return error;
    }
    netkit_slotmap *map = (netkit_slotmap *)nki_alloc(&allocator, sizeof *map);
    if (map == NULL) {
        return NETKIT_E_NOMEM;
    }
    map->allocator = allocator;
    uint32_t size = ((uint32_t)desc->object_size + NKI_SLOTMAP_HEAD - 1) / NKI_SLOTMAP_HEAD + 1;
    uint32_t count = desc->count_max == 0 ? (uint32_t)NKI_SLOTMAP_COUNT : desc->count_max;
    /* Two maps begin elsewhere, so that a handle used with the wrong one is stale. */
    uint32_t generation = (uint32_t)(((uintptr_t)map >> 4) * 2654435761u);
    nki_slots_init(&map->slots, &map->allocator, size * NKI_SLOTMAP_HEAD, count, generation);
    *out = map;
    return NETKIT_OK;
}

NETKIT_API void netkit_slotmap_destroy(netkit_slotmap *map) {
    if (map != NULL) {
        netkit_allocator allocator = map->allocator;
        nki_slots_free_all(&map->slots);
        nki_free(&allocator, map, sizeof *map);
    }
}

NETKIT_API int netkit_slotmap_add(netkit_slotmap *map, uint64_t *handle, void **object) {
    void *slot;
    *handle = 0;
    if (object != NULL) {
        *object = NULL;
    }
    int error = nki_slots_take(&map->slots, NKI_SLOTMAP_KIND, &slot);
    if (error != NETKIT_OK) {
        return error;
    }
    *handle = ((const nki_slot *)slot)->id;
    if (object != NULL) {
        *object = (unsigned char *)slot + NKI_SLOTMAP_HEAD;
    }
    return NETKIT_OK;
}

NETKIT_API void *netkit_slotmap_find(const netkit_slotmap *map, uint64_t handle) {
    void *slot = nki_slots_find(&map->slots, handle, NKI_SLOTMAP_KIND);
    return slot == NULL ? NULL : (unsigned char *)slot + NKI_SLOTMAP_HEAD;
}

NETKIT_API int netkit_slotmap_remove(netkit_slotmap *map, uint64_t handle) {
    void *slot = nki_slots_find(&map->slots, handle, NKI_SLOTMAP_KIND);
    if (slot == NULL) {
        return NETKIT_E_STALE;
    }
    nki_slots_give(&map->slots, slot);
    return NETKIT_OK;
}

NETKIT_API uint32_t netkit_slotmap_count(const netkit_slotmap *map) {
    return map->slots.count;
}

NETKIT_API uint64_t netkit_slotmap_next(const netkit_slotmap *map, uint64_t after) {
    uint32_t slot = after == 0 ? 0 : nki_id_slot(after) + 1;
    for (; slot < map->slots.capacity; slot++) {
        const nki_slot *found = nki_slots_at(&map->slots, slot);
        if (nki_id_kind(found->id) == NKI_SLOTMAP_KIND) {
            return found->id;
        }
    }
    return 0;
}

/* ---- src/base/arena.c ---- */
/* Arenas: chunks in a list, the first of which is being filled. A request larger than a chunk
 * gets one of its own size; such are given back at reset, the others are kept as spare. */

enum {
    NKI_ARENA_ALIGN = 16,
    NKI_ARENA_CHUNK = 10 * 1024,
    NKI_ARENA_MAX = 100 * 1024 * 1024
};

typedef struct netkit_arena_chunk {
    struct netkit_arena_chunk *next;
    size_t size;  /* as asked of the allocator */
    size_t start; /* of the first aligned byte, from the chunk's own start */
} nki_arena_chunk;

static size_t nki_arena_chunk_size(const netkit_arena *arena) {
    return arena->chunk_size == 0 ? (size_t)NKI_ARENA_CHUNK : arena->chunk_size;
}

/* What a chunk must have so that `size` aligned bytes fit; 0 when that is no size. */
static size_t nki_arena_bytes_for(size_t size) {
    size_t head = sizeof(nki_arena_chunk) + NKI_ARENA_ALIGN - 1;
    return size > SIZE_MAX - head ? 0 : size + head;
}

static bool nki_arena_may_hold(const netkit_arena *arena, size_t bytes) {
    size_t max = arena->size_max == 0 ? (size_t)NKI_ARENA_MAX : arena->size_max;
    return bytes <= max && arena->size <= max - bytes;
}

static nki_arena_chunk *nki_arena_chunk_new(netkit_arena *arena, size_t bytes) {
    netkit_allocator allocator;
    if (!nki_arena_may_hold(arena, bytes) ||
        nki_allocator_init(&allocator, &arena->allocator) != NETKIT_OK) {
        return NULL;
    }
    nki_arena_chunk *chunk = (nki_arena_chunk *)nki_alloc(&allocator, bytes);
    if (chunk == NULL) {
        return NULL;
    }
    uintptr_t begin = (uintptr_t)(void *)(chunk + 1);
    size_t skip = (NKI_ARENA_ALIGN - begin % NKI_ARENA_ALIGN) % NKI_ARENA_ALIGN;
    chunk->size = bytes;
    chunk->start = sizeof *chunk + skip;
    arena->allocator = allocator;
    arena->size += bytes;
    return chunk;
}

static void nki_arena_chunk_free(netkit_arena *arena, nki_arena_chunk *chunk) {
    arena->size -= chunk->size;
    nki_free(&arena->allocator, chunk, chunk->size);
}

static void nki_arena_free_spare(netkit_arena *arena) {
    while (arena->spare != NULL) {
        nki_arena_chunk *chunk = arena->spare;
        arena->spare = chunk->next;
        nki_arena_chunk_free(arena, chunk);
    }
}

/* A chunk with `size` bytes free goes in front: a spare one when it is large enough. */
static int nki_arena_extend(netkit_arena *arena, size_t size) {
    size_t usual = nki_arena_chunk_size(arena);
    size_t need = nki_arena_bytes_for(size);
    nki_arena_chunk *chunk = NULL;
    if (need == 0) {
        return NETKIT_E_TOOBIG;
    }
    if (need <= usual && arena->spare != NULL) {
        chunk = arena->spare;
        arena->spare = chunk->next;
    } else {
        size_t bytes = NKI_MAX(need, usual);
        if (!nki_arena_may_hold(arena,
                                bytes)) { /* without what is kept, and no larger than need be */
            nki_arena_free_spare(arena);
            bytes = need;
        }
        chunk = nki_arena_chunk_new(arena, bytes);
    }
    if (chunk == NULL) {
        return NETKIT_E_NOMEM;
    }
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    arena->used = chunk->start;
    return NETKIT_OK;
}

NETKIT_API void *netkit_arena_alloc(netkit_arena *arena, size_t size) {
    size = NKI_MAX(size, 1);
    if (arena->chunks == NULL || size > arena->chunks->size - arena->used) {
        if (nki_arena_extend(arena, size) != NETKIT_OK) {
            return NULL;
        }
    }
    unsigned char *memory = (unsigned char *)(void *)arena->chunks + arena->used;
    size_t left = arena->chunks->size - arena->used - size;
    size_t pad = (NKI_ARENA_ALIGN - size % NKI_ARENA_ALIGN) % NKI_ARENA_ALIGN;
    arena->used += size + NKI_MIN(pad, left);
    return memory;
}

NETKIT_API void *netkit_arena_alloc_array(netkit_arena *arena, size_t count, size_t size) {
    if (size != 0 && count > SIZE_MAX / size) {
        return NULL;
    }
    void *memory = netkit_arena_alloc(arena, count * size);
    if (memory != NULL) {
        memset(memory, 0, count * size);
    }
    return memory;
}

NETKIT_API char *netkit_arena_copy(netkit_arena *arena, const void *data, size_t len) {
    char *text = len == SIZE_MAX ? NULL : (char *)netkit_arena_alloc(arena, len + 1);
    if (text == NULL) {
        return NULL;
    }
    if (len > 0) {
        memcpy(text, data, len);
    }
    text[len] = 0;
    return text;
}

NETKIT_API void netkit_arena_reset(netkit_arena *arena) {
    size_t usual = nki_arena_chunk_size(arena);
    while (arena->chunks != NULL) {
        nki_arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        if (chunk->size != usual) {
            nki_arena_chunk_free(arena, chunk);
            continue;
        }
        chunk->next = arena->spare;
        arena->spare = chunk;
    }
    arena->used = 0;
}

NETKIT_API void netkit_arena_free(netkit_arena *arena) {
    netkit_arena_reset(arena);
    nki_arena_free_spare(arena);
}

/* ---- src/base/fifo.c ---- */
/* The circular buffer. Byte i of the content stands at (front + i) mod capacity. */

enum {
    NKI_FIFO_FIRST = 1024,
    NKI_FIFO_MAX = 16 * 1024 * 1024
};

/* Through a volatile pointer: a store that the compiler must make. */
NETKIT_API void netkit_wipe(void *memory, size_t len) {
    volatile unsigned char *byte = (volatile unsigned char *)memory;
    while (len-- > 0) {
        *byte++ = 0;
    }
}

static size_t nki_fifo_max(const netkit_fifo *fifo) {
    return fifo->capacity_max == 0 ? (size_t)NKI_FIFO_MAX : fifo->capacity_max;
}

static size_t nki_fifo_at(const netkit_fifo *fifo, size_t offset) {
    return (fifo->front + offset) & (fifo->capacity - 1);
}

NETKIT_API size_t netkit_fifo_len(const netkit_fifo *fifo) {
    return fifo->len;
}

NETKIT_API size_t netkit_fifo_peek(const netkit_fifo *fifo, size_t offset, void *out, size_t len) {
    if (offset >= fifo->len || len == 0) {
        return 0;
    }
    len = NKI_MIN(len, fifo->len - offset);
    size_t at = nki_fifo_at(fifo, offset);
    size_t first = NKI_MIN(len, fifo->capacity - at);
    memcpy(out, fifo->memory + at, first);
    memcpy((unsigned char *)out + first, fifo->memory, len - first);
    return len;
}

/* Over to a memory of `capacity` bytes, in one piece from its start. */
static int nki_fifo_move(netkit_fifo *fifo, size_t capacity) {
    netkit_allocator allocator;
    int error = nki_allocator_init(&allocator, &fifo->allocator);
    if (error != NETKIT_OK) {
        return error;
    }
    unsigned char *memory = (unsigned char *)nki_alloc(&allocator, capacity);
    if (memory == NULL) {
        return NETKIT_E_NOMEM;
    }
    (void)netkit_fifo_peek(fifo, 0, memory, fifo->len);
    if (fifo->is_secret) {
        netkit_wipe(fifo->memory, fifo->capacity);
    }
    nki_free(&allocator, fifo->memory, fifo->capacity);
    fifo->allocator = allocator;
    fifo->memory = memory;
    fifo->capacity = capacity;
    fifo->front = 0;
    return NETKIT_OK;
}

NETKIT_API int netkit_fifo_reserve(netkit_fifo *fifo, size_t len) {
    size_t max = nki_fifo_max(fifo);
    if (len > max) {
        return NETKIT_E_TOOBIG;
    }
    if (fifo->len > max - len) {
        return NETKIT_E_FULL;
    }
    if (len <= fifo->capacity - fifo->len) {
        return NETKIT_OK;
    }
    size_t capacity = NKI_MAX(fifo->capacity, (size_t)NKI_FIFO_FIRST);
    while (capacity < fifo->len + len) {
        if (capacity > SIZE_MAX / 2) {
            return NETKIT_E_NOMEM;
        }
        capacity *= 2;
    }
    return nki_fifo_move(fifo, capacity);
}

NETKIT_API int netkit_fifo_write(netkit_fifo *fifo, const void *data, size_t len) {
    int error = netkit_fifo_reserve(fifo, len);
    if (error != NETKIT_OK || len == 0) {
        return error;
    }
    size_t at = nki_fifo_at(fifo, fifo->len);
    size_t first = NKI_MIN(len, fifo->capacity - at);
    memcpy(fifo->memory + at, data, first);
    memcpy(fifo->memory, (const unsigned char *)data + first, len - first);
    fifo->len += len;
    return NETKIT_OK;
}

NETKIT_API size_t netkit_fifo_consume(netkit_fifo *fifo, size_t len) {
    len = NKI_MIN(len, fifo->len);
    if (len == 0) {
        return 0;
    }
    if (fifo->is_secret) {
        size_t first = NKI_MIN(len, fifo->capacity - fifo->front);
        netkit_wipe(fifo->memory + fifo->front, first);
        netkit_wipe(fifo->memory, len - first);
    }
    fifo->len -= len;
    fifo->front = fifo->len == 0 ? 0 : nki_fifo_at(fifo, len);
    return len;
}

NETKIT_API size_t netkit_fifo_read(netkit_fifo *fifo, void *out, size_t len) {
    return netkit_fifo_consume(fifo, netkit_fifo_peek(fifo, 0, out, len));
}

NETKIT_API netkit_span netkit_fifo_front(const netkit_fifo *fifo) {
    netkit_span span = {NULL, 0};
    if (fifo->len > 0) {
        span.data = fifo->memory + fifo->front;
        span.len = NKI_MIN(fifo->len, fifo->capacity - fifo->front);
    }
    return span;
}

static void nki_fifo_reverse(unsigned char *memory, size_t from, size_t to) {
    while (from + 1 < to) {
        unsigned char byte = memory[from];
        memory[from++] = memory[--to];
        memory[to] = byte;
    }
}

/* Turn the memory so that the content begins at its start: by three reversals, in place. */
static void nki_fifo_rotate(netkit_fifo *fifo) {
    nki_fifo_reverse(fifo->memory, 0, fifo->front);
    nki_fifo_reverse(fifo->memory, fifo->front, fifo->capacity);
    nki_fifo_reverse(fifo->memory, 0, fifo->capacity);
    fifo->front = 0;
}

NETKIT_API const void *netkit_fifo_straighten(netkit_fifo *fifo, size_t len) {
    if (fifo->len < len || fifo->len == 0) {
        return NULL;
    }
    if (len > fifo->capacity - fifo->front) {
        nki_fifo_rotate(fifo);
    }
    return fifo->memory + fifo->front;
}

NETKIT_API void *netkit_fifo_space(netkit_fifo *fifo, size_t len, size_t *room) {
    *room = 0;
    if (netkit_fifo_reserve(fifo, NKI_MAX(len, 1)) != NETKIT_OK) {
        return NULL;
    }
    size_t at = nki_fifo_at(fifo, fifo->len);
    size_t piece = NKI_MIN(fifo->capacity - fifo->len, fifo->capacity - at);
    if (piece < len) {
        nki_fifo_rotate(fifo);
        at = fifo->len;
        piece = fifo->capacity - at;
    }
    *room = NKI_MIN(piece, nki_fifo_max(fifo) - fifo->len);
    return fifo->memory + at;
}

NETKIT_API int netkit_fifo_commit(netkit_fifo *fifo, size_t len) {
    size_t room = NKI_MIN(fifo->capacity, nki_fifo_max(fifo)) - fifo->len;
    if (len > 0 && room > 0) {
        room = NKI_MIN(room, fifo->capacity - nki_fifo_at(fifo, fifo->len));
    }
    if (len > room) {
        return NETKIT_E_INVALID;
    }
    fifo->len += len;
    return NETKIT_OK;
}

NETKIT_API void netkit_fifo_clear(netkit_fifo *fifo) {
    (void)netkit_fifo_consume(fifo, fifo->len);
}

NETKIT_API void netkit_fifo_free(netkit_fifo *fifo) {
    netkit_fifo_clear(fifo);
    if (fifo->is_secret) {
        netkit_wipe(fifo->memory, fifo->capacity);
    }
    nki_free(&fifo->allocator, fifo->memory, fifo->capacity);
    fifo->memory = NULL;
    fifo->capacity = 0;
    fifo->front = 0;
}

/* ---- src/base/frame.c ---- */
/* Framing: pure functions over bytes and lengths that a stranger sent. Nothing is added to a
 * length before it was compared with the limit. */

enum {
    NKI_FRAME_SIZE_MAX = 60 * 1024
};

static uint32_t nki_frame_size_max(const netkit_framing *f) {
    return f->size_max == 0 ? (uint32_t)NKI_FRAME_SIZE_MAX : f->size_max;
}

static uint32_t nki_frame_length_bytes(const netkit_framing *f) {
    return f->length_bytes == 0 ? 4 : f->length_bytes;
}

static uint32_t nki_frame_header_bytes(const netkit_framing *f) {
    return f->header_bytes == 0 ? f->length_offset + nki_frame_length_bytes(f) : f->header_bytes;
}

static bool nki_framing_is_valid(const netkit_framing *f) {
    uint32_t bytes = nki_frame_length_bytes(f);
    switch (f->kind) {
    case NETKIT_FRAME_LENGTH:
        return (bytes == 1 || bytes == 2 || bytes == 4) &&
               f->length_offset <= NETKIT_FRAME_HEADER_MAX - bytes &&
               nki_frame_header_bytes(f) >= f->length_offset + bytes &&
               nki_frame_header_bytes(f) <= NETKIT_FRAME_HEADER_MAX;
    case NETKIT_FRAME_DELIMITER: return f->delimiter_bytes <= NETKIT_FRAME_DELIMITER_MAX;
    case NETKIT_FRAME_FIXED: return f->size > 0 && f->size <= nki_frame_size_max(f);
    default: return false;
    }
}

/* Place of byte i, counted from the most significant. */
static uint32_t nki_frame_byte(const netkit_framing *f, uint32_t i) {
    return f->length_offset + (f->is_little_endian ? nki_frame_length_bytes(f) - 1 - i : i);
}

static int nki_frame_next_length(const netkit_framing *f, const unsigned char *at, size_t len,
                                 netkit_frame *out) {
    uint32_t header = nki_frame_header_bytes(f);
    uint32_t size = 0;
    if (len < f->length_offset + nki_frame_length_bytes(f)) {
        return 0;
    }
    for (uint32_t i = 0; i < nki_frame_length_bytes(f); i++) {
        size = size << 8 | at[nki_frame_byte(f, i)];
    }
    if (f->length_counts_header) {
        if (size < header) {
            return NETKIT_E_INVALID;
        }
        size -= header;
    }
    if (size > nki_frame_size_max(f)) {
        return NETKIT_E_TOOBIG;
    }
    if (len < header || len - header < size) {
        return 0;
    }
    out->len = size;
    out->data = at + header;
    out->header = at;
    return 1;
}

static int nki_frame_next_delimiter(const netkit_framing *f, const unsigned char *at, size_t len,
                                    netkit_frame *out) {
    const char *delimiter = f->delimiter_bytes == 0 ? "\n" : f->delimiter;
    size_t bytes = f->delimiter_bytes == 0 ? 1 : f->delimiter_bytes;
    size_t max = nki_frame_size_max(f);
    size_t from = 0;
    while (from <= max && len - from >= bytes) {
        size_t range = NKI_MIN(len - bytes, max) - from + 1;
        const void *found = memchr(at + from, (unsigned char)delimiter[0], range);
        if (found == NULL) {
            break;
        }
        from = (size_t)((const unsigned char *)found - at);
        if (memcmp(found, delimiter, bytes) == 0) {
            out->len = from;
            out->data = at;
            out->header = NULL;
            return 1;
        }
        from++;
    }
    /* Were it no longer than max, its delimiter would end within these. */
    return len >= max + bytes ? NETKIT_E_TOOBIG : 0;
}

static size_t nki_frame_bytes(const netkit_framing *f, const netkit_frame *frame) {
    switch (f->kind) {
    case NETKIT_FRAME_LENGTH: return frame->len + nki_frame_header_bytes(f);
    case NETKIT_FRAME_DELIMITER:
        return frame->len + (f->delimiter_bytes == 0 ? 1u : f->delimiter_bytes);
    default: return frame->len;
    }
}

NETKIT_API int netkit_frame_next(const netkit_framing *framing, const void *data, size_t len,
                                 size_t *used, netkit_frame *out) {
    int found = 0;
    if (!nki_framing_is_valid(framing) || *used > len) {
        return NETKIT_E_INVALID;
    }
    len -= *used;
    if (len == 0) {
        return 0;
    }
    const unsigned char *at = (const unsigned char *)data + *used;
    if (framing->kind == NETKIT_FRAME_LENGTH) {
        found = nki_frame_next_length(framing, at, len, out);
    } else if (framing->kind == NETKIT_FRAME_DELIMITER) {
        found = nki_frame_next_delimiter(framing, at, len, out);
    } else if (len >= framing->size) {
        out->len = framing->size;
        out->data = at;
        out->header = NULL;
        found = 1;
    }
    if (found > 0) {
        *used += nki_frame_bytes(framing, out);
    }
    return found;
}

NETKIT_API int netkit_frame_header(const netkit_framing *framing, size_t len, void *out) {
    if (!nki_framing_is_valid(framing)) {
        return NETKIT_E_INVALID;
    }
    if (len > nki_frame_size_max(framing)) {
        return NETKIT_E_TOOBIG;
    }
    if (framing->kind != NETKIT_FRAME_LENGTH) {
        return framing->kind == NETKIT_FRAME_FIXED && len != framing->size ? NETKIT_E_INVALID : 0;
    }
    uint32_t header = nki_frame_header_bytes(framing);
    uint32_t bytes = nki_frame_length_bytes(framing);
    uint64_t size = (uint64_t)len + (framing->length_counts_header ? header : 0);
    if (size >> (8 * bytes) != 0) {
        return NETKIT_E_TOOBIG;
    }
    for (uint32_t i = bytes; i-- > 0; size >>= 8) {
        ((unsigned char *)out)[nki_frame_byte(framing, i)] = (unsigned char)size;
    }
    return (int)header;
}

/* ---- src/base/timers.h ---- */
/* Timers: a pure priority queue of due times, ordered by due time, then by start.
 * Whoever has a timer embeds a node; see timers.c for how the queue works. */

typedef struct nki_timer_node {
    uint64_t due_ns;
    uint64_t order; /* of the last start: breaks ties */
    uint32_t at;    /* where the queue keeps it, 0 = not in it */
    /* Bits of one word, so that a user's timer is half a cache line. */
    unsigned slot : 16; /* the slot of that place */
    unsigned kind : 8;  /* whose node this is: the queue does not look */
    unsigned mark : 1;  /* its owner's: the queue does not look */
    /* Its memory stays until the queue is freed, and whatever lives there meanwhile, nobody but
     * the queue writes to `at` (but a 0): then leaving a slot need not touch the slot. */
    unsigned is_lasting : 1;
} nki_timer_node;

/* What the heap moves about: comparing seldom touches the node. */
typedef struct nki_timer_entry {
    uint64_t due_ns;
    nki_timer_node *node;
} nki_timer_entry;

enum {
    NKI_TIMER_TICK_BITS = 20, /* a tick is about a millisecond */
    NKI_TIMER_SLOT_BITS = 6,  /* so that a level's slots fit the bits of a word */
    NKI_TIMER_SLOTS = 1 << NKI_TIMER_SLOT_BITS,
    NKI_TIMER_LEVELS = 8, /* 20 + 8 * 6 bits hold every due time */
    NKI_TIMER_CHUNK = 16  /* places in a chunk */
};

typedef struct nki_timers {
    const netkit_allocator *allocator;
    void *memory; /* of soon, pool and before */
    size_t memory_size;
    nki_timer_entry *soon;
    nki_timer_node **pool; /* the places of the slots, in chunks */
    uint32_t *before;      /* of each chunk: the one filled before it, or the next free one; +1 */
    nki_timer_node *first; /* as last found, or NULL: not known */
    uint32_t capacity;     /* nodes there is memory for */
    uint32_t count;
    uint32_t soon_count;
    uint32_t places;     /* filled ones, holes too */
    uint32_t chunk_free; /* first of the free chunks, +1 */
    uint32_t chunk_used; /* chunks that were ever taken */
    uint64_t order;      /* of the next start */
    uint64_t base;       /* all up to this tick is in `soon`, all after in slots */
    uint64_t filled[NKI_TIMER_LEVELS];
    uint32_t slots[NKI_TIMER_LEVELS * NKI_TIMER_SLOTS]; /* the place after the last one filled */
} nki_timers;

/* ---- src/base/timers.c ---- */
/* Timers: a hierarchical wheel that hands what is next to a small exact heap.
 *
 * Time is cut into ticks of 2^20 ns. Nodes whose tick is after `base` lie unsorted in
 * slots: on level n a slot is 64^n ticks wide, and a node lies on the level of the
 * highest digit (base 64) in which its tick differs from `base`. Nodes up to `base`
 * lie in `soon`, a 4-ary heap on the exact due time and the order of starting. So soon
 * holds what is earlier than all slots, and only when it is empty the earliest slot is
 * opened: `base` moves to its start, its nodes go to lower levels or to soon. A slot of
 * few nodes is not opened but looked through, so that a lonely timer an hour away does
 * not move `base` there, which would make a heap of all that is started meanwhile.
 *
 * A node may lie in a slot earlier than its due time asks for, never in a later one:
 * restarting to a later time, which is what idle timeouts do all the time, writes to
 * the node alone, and opening the slot moves it on, once.
 *
 * Slots are chains of chunks of pointers and not linked nodes, because opening one then
 * reads memory in sequence and fetches the nodes ahead: chasing a million links costs a
 * cache miss each. With a million timers the misses are the whole price, so leaving a slot
 * touches nothing but the node, if its memory lasts: its place is a hole from then on, as
 * the node says that it is elsewhere. (Else the place is emptied, which costs a third more.)
 * Holes stay until their slot is opened or looked through, until the queue is empty, or
 * until they are as many as the nodes may be: then all slots are swept.
 *
 * A million timers in random order against libev's heap, CPU time of insert, restart, cancel,
 * fire: 1.2, 1.1, 0.95, 0.44; with a whole cache line for each timer 1.2, 1.2, 1.1, 0.28, and
 * with due times in the slots and no holes besides 1.3, 1.5, 2.0, 0.29. What is left of a restart
 * or cancel is two misses, the user's handle and the node; a firing has one more, what to call.
 *
 * Memory is for `capacity` nodes and as many holes in the worst distribution, in one
 * block, so that nothing but a start can fail: see nki_timers_chunks_for.
 *
 * Nothing here reads a clock: `base` follows the due times that were asked for. */

#define NKI_TIMER_SOON 0x80000000u /* in `at`: the rest is an index into soon */

static void nki_timers_init(nki_timers *t, const netkit_allocator *a) {
    memset(t, 0, sizeof(*t));
    t->allocator = a;
}

/* Nodes that are still in are forgotten, not touched. */
static void nki_timers_free(nki_timers *t) {
    nki_free(t->allocator, t->memory, t->memory_size);
    nki_timers_init(t, t->allocator);
}

#if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_ARM64))
static uint32_t nki_lowest_bit(uint64_t bits) {
    unsigned long at;
    (void)_BitScanForward64(&at, bits);
    return (uint32_t)at;
}
static uint32_t nki_highest_bit(uint64_t bits) {
    unsigned long at;
    (void)_BitScanReverse64(&at, bits);
    return (uint32_t)at;
}
#define NKI_PREFETCH(p) NKI_UNUSED(p)
#elif defined(__GNUC__)
static uint32_t nki_lowest_bit(uint64_t bits) {
    return (uint32_t)__builtin_ctzll(bits);
}
static uint32_t nki_highest_bit(uint64_t bits) {
    return 63 - (uint32_t)__builtin_clzll(bits);
}
#define NKI_PREFETCH(p) __builtin_prefetch((p), 1)
#else
static uint32_t nki_highest_bit(uint64_t bits) {
    uint32_t at = 0;
    uint32_t step;
    for (step = 32; step > 0; step /= 2) {
        if (bits >> step != 0) {
            bits >>= step;
            at += step;
        }
    }
    return at;
}
static uint32_t nki_lowest_bit(uint64_t bits) {
    return nki_highest_bit(bits & (~bits + 1));
}
#define NKI_PREFETCH(p) NKI_UNUSED(p)
#endif

/* ---- memory ---------------------------------------------------------------- */

/* The most chunks that so many places fill. Each slot may have one that is not full; the
 * others hold NKI_TIMER_CHUNK places each. (A slot that is being poured out gives back the one
 * that is not full first, and has only full ones from then on, so a new one may grow beside.) */
static uint64_t nki_timers_chunks_for(uint64_t places) {
    uint64_t partial = NKI_MIN(places, (uint64_t)NKI_TIMER_LEVELS * NKI_TIMER_SLOTS);
    return partial + (places - partial) / NKI_TIMER_CHUNK;
}

/* The most places that are filled, with nodes or holes. So a sweep, which leaves at most
 * `capacity`, comes after as many nodes have left slots, and each of them pays for one. */
static uint64_t nki_timers_places_max(uint64_t capacity) {
    return capacity * 2;
}

/* Go over to a larger block, cut into the three arrays. */
static void nki_timers_move(nki_timers *t, void *memory, uint32_t capacity, uint32_t chunks) {
    nki_timer_entry *soon = (nki_timer_entry *)memory;
    nki_timer_node **pool = (nki_timer_node **)(void *)(soon + capacity);
    uint32_t *before = (uint32_t *)(void *)(pool + (size_t)chunks * NKI_TIMER_CHUNK);
    if (t->memory != NULL) {
        memcpy(soon, t->soon, sizeof(*soon) * t->soon_count);
        memcpy(pool, t->pool, sizeof(void *) * NKI_TIMER_CHUNK * t->chunk_used);
        memcpy(before, t->before, sizeof(*before) * t->chunk_used);
        nki_free(t->allocator, t->memory, t->memory_size);
    }
    t->memory = memory;
    t->soon = soon;
    t->pool = pool;
    t->before = before;
    t->capacity = capacity;
}

/* Make room for `count` more nodes than are in now, so that starting them cannot
 * fail. Returns NETKIT_OK or NETKIT_E_NOMEM, which changes nothing. */
static int nki_timers_reserve(nki_timers *t, uint32_t count) {
    const uint64_t places_max = NKI_MIN(NKI_TIMER_SOON, SIZE_MAX / 32); /* of under 16 bytes */
    uint64_t need = (uint64_t)t->count + count;
    uint64_t capacity = NKI_MAX(t->capacity, 16);
    uint64_t chunks, size;
    void *memory;
    if (need <= t->capacity) {
        return NETKIT_OK;
    }
    while (capacity < need) {
        capacity *= 2;
    }
    chunks = nki_timers_chunks_for(nki_timers_places_max(capacity));
    size = capacity * sizeof(*t->soon) +
           chunks * (NKI_TIMER_CHUNK * sizeof(void *) + sizeof(*t->before));
    if (chunks >= places_max / NKI_TIMER_CHUNK) {
        return NETKIT_E_NOMEM;
    }
    memory = nki_alloc(t->allocator, (size_t)size);
    if (memory == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_timers_move(t, memory, (uint32_t)capacity, (uint32_t)chunks);
    t->memory_size = (size_t)size;
    return NETKIT_OK;
}

/* There always is one: see nki_timers_chunks_for. */
static uint32_t nki_timers_chunk_take(nki_timers *t) {
    uint32_t chunk = t->chunk_free;
    if (chunk == 0) {
        return t->chunk_used++;
    }
    t->chunk_free = t->before[chunk - 1];
    return chunk - 1;
}

/* Give back the chunk that is filled up to `end`. Returns the end of the one before it in
 * its slot, which is full; 0 = none. */
static uint32_t nki_timers_chunk_give(nki_timers *t, uint32_t end) {
    uint32_t chunk = (end - 1) / NKI_TIMER_CHUNK;
    uint32_t before = t->before[chunk];
    t->places -= end - chunk * NKI_TIMER_CHUNK;
    t->before[chunk] = t->chunk_free;
    t->chunk_free = chunk + 1;
    return before * NKI_TIMER_CHUNK;
}

/* ---- soon: the heap -------------------------------------------------------- */

static nki_timer_entry nki_timers_entry(nki_timer_node *n) {
    nki_timer_entry e;
    e.due_ns = n->due_ns;
    e.node = n;
    return e;
}

static bool nki_timers_before(nki_timer_entry a, nki_timer_entry b) {
    return a.due_ns < b.due_ns || (a.due_ns == b.due_ns && a.node->order < b.node->order);
}

static void nki_timers_soon_place(nki_timers *t, uint32_t index, nki_timer_entry e) {
    t->soon[index] = e;
    e.node->at = NKI_TIMER_SOON | index;
}

static void nki_timers_soon_up(nki_timers *t, uint32_t index, nki_timer_entry e) {
    while (index > 0) {
        uint32_t parent = (index - 1) / 4;
        if (!nki_timers_before(e, t->soon[parent])) {
            break;
        }
        nki_timers_soon_place(t, index, t->soon[parent]);
        index = parent;
    }
    nki_timers_soon_place(t, index, e);
}

static void nki_timers_soon_down(nki_timers *t, uint32_t index, nki_timer_entry e) {
    uint64_t child = (uint64_t)index * 4 + 1;
    while (child < t->soon_count) {
        uint64_t end = NKI_MIN(child + 4, t->soon_count);
        uint64_t best = child;
        for (child++; child < end; child++) {
            if (nki_timers_before(t->soon[child], t->soon[best])) {
                best = child;
            }
        }
        if (!nki_timers_before(t->soon[best], e)) {
            break;
        }
        nki_timers_soon_place(t, index, t->soon[best]);
        index = (uint32_t)best;
        child = best * 4 + 1;
    }
    nki_timers_soon_place(t, index, e);
}

/* Place an entry where there is a hole, or one that has changed. */
static void nki_timers_soon_settle(nki_timers *t, uint32_t index, nki_timer_entry e) {
    if (index > 0 && nki_timers_before(e, t->soon[(index - 1) / 4])) {
        nki_timers_soon_up(t, index, e);
    } else {
        nki_timers_soon_down(t, index, e);
    }
}

static void nki_timers_soon_remove(nki_timers *t, uint32_t index) {
    nki_timer_entry last = t->soon[--t->soon_count];
    if (index != t->soon_count) {
        nki_timers_soon_settle(t, index, last);
    }
}

/* ---- slots: the wheel ------------------------------------------------------ */

static uint64_t nki_timers_tick(uint64_t due_ns) {
    return due_ns >> NKI_TIMER_TICK_BITS;
}

/* The slot is one after base, so they share all digits above its level. */
static uint64_t nki_timers_slot_start(const nki_timers *t, uint32_t slot) {
    uint32_t shift = slot / NKI_TIMER_SLOTS * NKI_TIMER_SLOT_BITS;
    uint64_t above = t->base >> shift >> NKI_TIMER_SLOT_BITS;
    return (above << NKI_TIMER_SLOT_BITS | slot % NKI_TIMER_SLOTS) << shift;
}

/* Not a hole: the node in this place lies here, and has not gone elsewhere. */
static bool nki_timers_is_at(const nki_timers *t, uint32_t place) {
    return t->pool[place] != NULL && t->pool[place]->at == place + 1;
}

static void nki_timers_slot_add(nki_timers *t, uint32_t slot, nki_timer_node *n) {
    uint32_t end = t->slots[slot];
    if (end % NKI_TIMER_CHUNK == 0) {
        uint32_t chunk = nki_timers_chunk_take(t);
        t->before[chunk] = end / NKI_TIMER_CHUNK;
        end = chunk * NKI_TIMER_CHUNK;
    }
    t->pool[end] = n;
    t->places++;
    t->slots[slot] = end + 1;
    n->at = end + 1;
    n->slot = slot & 0xFFFFu;
}

/* Make the slot an empty one. Returns where its chain ended. */
static uint32_t nki_timers_slot_detach(nki_timers *t, uint32_t slot) {
    uint32_t end = t->slots[slot];
    t->slots[slot] = 0;
    t->filled[slot / NKI_TIMER_SLOTS] &= ~((uint64_t)1 << slot % NKI_TIMER_SLOTS);
    return end;
}

static void nki_timers_add(nki_timers *t, nki_timer_node *n) {
    uint64_t tick = nki_timers_tick(n->due_ns);
    uint32_t level, digit;
    if (tick <= t->base) {
        nki_timers_soon_up(t, t->soon_count++, nki_timers_entry(n));
        return;
    }
    level = nki_highest_bit(tick ^ t->base) / NKI_TIMER_SLOT_BITS;
    digit = (uint32_t)(tick >> level * NKI_TIMER_SLOT_BITS) % NKI_TIMER_SLOTS;
    t->filled[level] |= (uint64_t)1 << digit;
    nki_timers_slot_add(t, level * NKI_TIMER_SLOTS + digit, n);
}

/* Have the nodes of the chunk that is filled up to `end` on their way. */
static void nki_timers_fetch(const nki_timers *t, uint32_t end) {
    uint32_t first = (end - 1) / NKI_TIMER_CHUNK * NKI_TIMER_CHUNK;
    for (; end > first; end--) {
        NKI_PREFETCH(t->pool[end - 1]);
    }
}

/* Copy out the nodes of the chunk that is filled up to `end`. Returns how many there are. */
static uint32_t nki_timers_chunk_read(const nki_timers *t, uint32_t end, nki_timer_node **out) {
    uint32_t place = (end - 1) / NKI_TIMER_CHUNK * NKI_TIMER_CHUNK;
    uint32_t count = 0;
    for (; place < end; place++) {
        if (nki_timers_is_at(t, place)) {
            out[count++] = t->pool[place];
        }
    }
    return count;
}

/* Take all out of a slot and place it where it belongs now. A chunk is copied out and given
 * back before its nodes are placed, so there are always chunks enough. */
static void nki_timers_slot_pour(nki_timers *t, uint32_t slot) {
    uint32_t end = nki_timers_slot_detach(t, slot);
    nki_timers_fetch(t, end);
    while (end != 0) {
        nki_timer_node *nodes[NKI_TIMER_CHUNK];
        uint32_t count = nki_timers_chunk_read(t, end, nodes);
        uint32_t i;
        end = nki_timers_chunk_give(t, end);
        if (end != 0) {
            nki_timers_fetch(t, end);
        }
        for (i = 0; i < count; i++) {
            nki_timers_add(t, nodes[i]);
        }
    }
}

/* Rid all slots of holes. */
static NKI_OUTLINE void nki_timers_sweep(nki_timers *t) {
    uint32_t level;
    for (level = 0; level < NKI_TIMER_LEVELS; level++) {
        uint64_t filled = t->filled[level];
        for (; filled != 0; filled &= filled - 1) {
            nki_timers_slot_pour(t, level * NKI_TIMER_SLOTS + nki_lowest_bit(filled));
        }
    }
}

/* No node is in, only holes are left. */
static void nki_timers_clear(nki_timers *t) {
    uint32_t level;
    for (level = 0; level < NKI_TIMER_LEVELS; level++) {
        while (t->filled[level] != 0) {
            uint32_t slot = level * NKI_TIMER_SLOTS + nki_lowest_bit(t->filled[level]);
            (void)nki_timers_slot_detach(t, slot);
        }
    }
    t->places = 0;
    t->chunk_used = 0;
    t->chunk_free = 0;
}

/* More than a chunk of them. */
static bool nki_timers_slot_has_many(const nki_timers *t, uint32_t slot) {
    nki_timer_node *nodes[NKI_TIMER_CHUNK];
    uint32_t end = t->slots[slot];
    uint32_t count = 0;
    while (end != 0 && count <= NKI_TIMER_CHUNK) {
        count += nki_timers_chunk_read(t, end, nodes);
        end = t->before[(end - 1) / NKI_TIMER_CHUNK] * NKI_TIMER_CHUNK;
    }
    return count > NKI_TIMER_CHUNK;
}

/* The earliest of a slot of one chunk; NULL when there is none, or when it is due after the
 * slot, as all are then, and may not be the earliest of all. */
static nki_timer_node *nki_timers_slot_first(const nki_timers *t, uint32_t slot) {
    nki_timer_node *nodes[NKI_TIMER_CHUNK];
    uint32_t count = nki_timers_chunk_read(t, t->slots[slot], nodes);
    uint32_t shift = slot / NKI_TIMER_SLOTS * NKI_TIMER_SLOT_BITS;
    nki_timer_entry first;
    if (count == 0) {
        return NULL;
    }
    first = nki_timers_entry(nodes[0]);
    while (--count > 0) {
        if (nki_timers_before(nki_timers_entry(nodes[count]), first)) {
            first = nki_timers_entry(nodes[count]);
        }
    }
    if (nki_timers_tick(first.due_ns) >> shift != nki_timers_slot_start(t, slot) >> shift) {
        return NULL;
    }
    return first.node;
}

/* ---- the queue ------------------------------------------------------------- */

static uint32_t nki_timers_first_slot(const nki_timers *t) {
    uint32_t level = 0;
    while (t->filled[level] == 0) {
        level++;
    }
    return level * NKI_TIMER_SLOTS + nki_lowest_bit(t->filled[level]);
}

/* The earliest, NULL when there is none. Opens slots on the way to it. */
static nki_timer_node *nki_timers_find_first(nki_timers *t) {
    while (t->soon_count == 0 && t->count > 0) {
        uint32_t slot = nki_timers_first_slot(t);
        if (t->before[(t->slots[slot] - 1) / NKI_TIMER_CHUNK] == 0) {
            nki_timer_node *first = nki_timers_slot_first(t, slot);
            if (first != NULL) {
                return first;
            }
        } else if (nki_timers_slot_has_many(t, slot)) {
            t->base = nki_timers_slot_start(t, slot);
        }
        nki_timers_slot_pour(t, slot);
    }
    return t->soon_count == 0 ? NULL : t->soon[0].node;
}

/* The earliest node, or NULL. Remembered, as a loop asks several times a turn. */
static nki_timer_node *nki_timers_first(nki_timers *t) {
    if (t->first == NULL) {
        t->first = nki_timers_find_first(t);
    }
    return t->first;
}

/* `n` gets a new due time: is it the first now, or is the first unknown? */
static void nki_timers_first_changed(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    if (t->first == n) {
        t->first = NULL;
    } else if (t->first != NULL && due_ns < t->first->due_ns) {
        t->first = n;
    }
}

/* Place `n`, which lies nowhere. */
static void nki_timers_place(nki_timers *t, nki_timer_node *n) {
    if (NKI_UNLIKELY(t->places == nki_timers_places_max(t->capacity))) {
        nki_timers_sweep(t);
    }
    nki_timers_add(t, n);
}

/* `n` is not in. Returns NETKIT_OK or NETKIT_E_NOMEM, which changes nothing. */
static int nki_timers_start(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    NETKIT_ASSERT(n->at == 0);
    if (t->count == t->capacity && nki_timers_reserve(t, 1) < 0) {
        return NETKIT_E_NOMEM;
    }
    nki_timers_first_changed(t, n, due_ns);
    n->due_ns = due_ns;
    n->order = t->order++;
    t->count++;
    nki_timers_place(t, n);
    return NETKIT_OK;
}

/* A place in a slot becomes a hole: by `n` being elsewhere, if it lasts. */
static void nki_timers_remove(nki_timers *t, nki_timer_node *n) {
    if (NKI_UNLIKELY((n->at & NKI_TIMER_SOON) != 0)) {
        nki_timers_soon_remove(t, n->at & ~NKI_TIMER_SOON);
    } else if (!n->is_lasting) {
        t->pool[n->at - 1] = NULL;
    }
    n->at = 0;
}

/* Move `n`, which lies too late for its due time, or in `soon` and not in its order. */
static NKI_OUTLINE void nki_timers_replace(nki_timers *t, nki_timer_node *n) {
    if ((n->at & NKI_TIMER_SOON) != 0 && nki_timers_tick(n->due_ns) <= t->base) {
        nki_timers_soon_settle(t, n->at & ~NKI_TIMER_SOON, nki_timers_entry(n));
        return;
    }
    nki_timers_remove(t, n);
    nki_timers_place(t, n);
}

/* `n` is in. It comes behind those that are due at the same time. */
static void nki_timers_restart(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    NETKIT_ASSERT(n->at != 0);
    nki_timers_first_changed(t, n, due_ns);
    n->due_ns = due_ns;
    n->order = t->order++;
    if ((n->at & NKI_TIMER_SOON) != 0 ||
        nki_timers_tick(due_ns) < nki_timers_slot_start(t, n->slot)) {
        nki_timers_replace(t, n);
    }
}

/* Take out `n`, if it is in. Unless it lasts, its memory is not looked at any more. */
static void nki_timers_stop(nki_timers *t, nki_timer_node *n) {
    if (n->at == 0) {
        return;
    }
    if (t->first == n) {
        t->first = NULL;
    }
    nki_timers_remove(t, n);
    t->count--;
    if (t->count == 0) {
        nki_timers_clear(t);
    }
}

/* ---- src/base/posts.c ---- */
/* Posts: calls that other threads want made on the loop's thread.
 *
 * A bounded ring for many producers and one consumer, after Dmitry Vyukov's
 * bounded queue: every cell carries a sequence number that says whose turn it
 * is. For position p in the endless row of posts the cell's number is 2p while
 * it waits to be filled and 2p + 1 when it is filled; emptying it makes it
 * 2(p + capacity). (The doubling, against the usual p and p + 1, lets a ring of
 * one cell work.)
 *
 * A producer claims a position by advancing `tail`, writes, then publishes the
 * number. One that is stopped between the two hides what later producers have
 * published behind it: the consumer is then told "nothing yet" and must neither
 * wait for it nor skip it. Nothing is lost, because every producer wakes the loop
 * after its own publishing, and that wake finds all that has become visible.
 *
 * Cells are not spread over cache lines: with 1 to 8 producers that measured the
 * same. Nothing is allocated after nki_posts_init. */

typedef struct nki_post_cell {
    size_t turn;
    netkit_post_fn fn;
    void *user;
} nki_post_cell;

/* Producers fight over `tail`, the consumer keeps `head` to itself; a cache line
 * between them and the rest keeps one from slowing the other. */
typedef struct nki_posts {
    nki_post_cell *cells;
    size_t mask;
    const netkit_allocator *allocator;
    char pad_a[64];
    size_t tail;
    char pad_b[64];
    size_t head;
    char pad_c[64];
} nki_posts;

/* `capacity` is a power of two. Returns NETKIT_OK, NETKIT_E_INVALID,
 * NETKIT_E_NOMEM; the queue can be freed after all of these. */
static int nki_posts_init(nki_posts *q, const netkit_allocator *a, uint32_t capacity) {
    size_t i;
    memset(q, 0, sizeof(*q));
    q->allocator = a;
    if (capacity == 0 || (capacity & (capacity - 1)) != 0) {
        return NETKIT_E_INVALID;
    }
    if ((uint64_t)capacity * sizeof(nki_post_cell) > SIZE_MAX / 2) {
        return NETKIT_E_NOMEM;
    }
    q->cells = (nki_post_cell *)nki_alloc(a, sizeof(nki_post_cell) * capacity);
    if (q->cells == NULL) {
        return NETKIT_E_NOMEM;
    }
    q->mask = (size_t)capacity - 1;
    for (i = 0; i < capacity; i++) {
        q->cells[i].turn = 2 * i;
    }
    return NETKIT_OK;
}

/* No producer may be inside nki_posts_push any more. */
static void nki_posts_free(nki_posts *q) {
    nki_free(q->allocator, q->cells, sizeof(nki_post_cell) * (q->mask + 1));
    q->cells = NULL;
}

/* Any thread. Returns NETKIT_OK or NETKIT_E_FULL. Wake the loop after it. */
static int nki_posts_push(nki_posts *q, netkit_post_fn fn, void *user) {
    size_t at = nki_atomic_load_relaxed(&q->tail);
    nki_post_cell *cell;
    for (;;) {
        size_t turn;
        cell = &q->cells[at & q->mask];
        turn = nki_atomic_load(&cell->turn);
        if (turn == 2 * at) {
            if (nki_atomic_cas_size(&q->tail, &at, at + 1)) {
                break;
            }
        } else if (turn - 2 * at > SIZE_MAX / 2) {
            return NETKIT_E_FULL; /* still holds the post of a lap ago */
        } else {
            at = nki_atomic_load_relaxed(&q->tail);
        }
    }
    cell->fn = fn;
    cell->user = user;
    nki_atomic_store(&cell->turn, 2 * at + 1);
    return NETKIT_OK;
}

/* The consumer alone: whether a pop would give nothing now. */
static bool nki_posts_is_empty(const nki_posts *q) {
    return nki_atomic_load(&q->cells[q->head & q->mask].turn) != 2 * q->head + 1;
}

/* The consumer alone. False when nothing is there, or not yet. */
static bool nki_posts_pop(nki_posts *q, netkit_post_fn *fn, void **user) {
    nki_post_cell *cell = &q->cells[q->head & q->mask];
    if (nki_posts_is_empty(q)) {
        return false;
    }
    *fn = cell->fn;
    *user = cell->user;
    nki_atomic_store(&cell->turn, 2 * (q->head + q->mask + 1));
    q->head++;
    return true;
}

/* ---- src/os/seam_posix.h ---- */
/* The seam on POSIX: every system call the library makes, by name.
 *
 * NKI_FAIL(name) is 0, or in tests a function that counts the call, may set errno
 * and returns true to have it fail. close is special: it must really close.
 * NKI_CLIP(name, len) shortens transfers; the callers of sendmsg and recvmsg ask it for their
 * total.
 * NKI_MASK(name, bits) takes features away that the kernel says it has. */

#if NKI_POSIX

#define NKI_SYS_socket(f, t, p) (NKI_FAIL(socket) ? -1 : socket((f), (t), (p)))
#define NKI_SYS_socketpair(f, t, p, out) \
    (NKI_FAIL(socketpair) ? -1 : socketpair((f), (t), (p), (out)))
#define NKI_SYS_bind(s, a, n) (NKI_FAIL(bind) ? -1 : bind((s), (a), (n)))
#define NKI_SYS_listen(s, n) (NKI_FAIL(listen) ? -1 : listen((s), (n)))
#define NKI_SYS_connect(s, a, n) (NKI_FAIL(connect) ? -1 : connect((s), (a), (n)))
#if NKI_HAS_SOCK_FLAGS
#define NKI_SYS_accept(s, a, n) \
    (NKI_FAIL(accept) ? -1 : accept4((s), (a), (n), SOCK_NONBLOCK | SOCK_CLOEXEC))
#else
#define NKI_SYS_accept(s, a, n) (NKI_FAIL(accept) ? -1 : accept((s), (a), (n)))
#endif
#define NKI_SYS_recv(s, b, n, f) (NKI_FAIL(recv) ? -1 : recv((s), (b), NKI_CLIP(recv, n), (f)))
#define NKI_SYS_send(s, b, n, f) (NKI_FAIL(send) ? -1 : send((s), (b), NKI_CLIP(send, n), (f)))
/* musl's sendmsg takes 1,024 bytes of control data and no more: 252 descriptors. */
#if NKI_LINUX && !defined(__GLIBC__) && defined(SYS_sendmsg)
#define NKI_SYS_sendmsg(s, m, f) \
    (NKI_FAIL(sendmsg) ? -1 : (ssize_t)syscall(SYS_sendmsg, (s), (m), (f)))
#else
#define NKI_SYS_sendmsg(s, m, f) (NKI_FAIL(sendmsg) ? -1 : sendmsg((s), (m), (f)))
#endif
#define NKI_SYS_recvmsg(s, m, f) (NKI_FAIL(recvmsg) ? -1 : recvmsg((s), (m), (f)))
#if NKI_HAS_MMSG
#define NKI_SYS_recvmmsg(s, m, n, f) \
    (NKI_FAIL(recvmmsg) ? -1 : recvmmsg((s), (m), (unsigned)NKI_CLIP(recvmmsg, n), (f), NULL))
#define NKI_SYS_sendmmsg(s, m, n, f) \
    (NKI_FAIL(sendmmsg) ? -1 : sendmmsg((s), (m), (unsigned)NKI_CLIP(sendmmsg, n), (f)))
#endif
#define NKI_SYS_shutdown(s, how) (NKI_FAIL(shutdown) ? -1 : shutdown((s), (how)))
#define NKI_SYS_close(fd) (close(fd) != 0 || NKI_FAIL(close) ? -1 : 0)
#define NKI_SYS_getsockopt(s, l, o, v, n) \
    (NKI_FAIL(getsockopt) ? -1 : getsockopt((s), (l), (o), (v), (n)))
#define NKI_SYS_setsockopt(s, l, o, v, n) \
    (NKI_FAIL(setsockopt) ? -1 : setsockopt((s), (l), (o), (v), (n)))
#define NKI_SYS_getsockname(s, a, n) (NKI_FAIL(getsockname) ? -1 : getsockname((s), (a), (n)))
#define NKI_SYS_getpeername(s, a, n) (NKI_FAIL(getpeername) ? -1 : getpeername((s), (a), (n)))
#define NKI_SYS_fcntl(fd, cmd, v) (NKI_FAIL(fcntl) ? -1 : fcntl((fd), (cmd), (v)))
#define NKI_SYS_fstat(fd, st) (NKI_FAIL(fstat) ? -1 : fstat((fd), (st)))
#define NKI_SYS_read(fd, b, n) (NKI_FAIL(read) ? -1 : read((fd), (b), (n)))
#define NKI_SYS_write(fd, b, n) (NKI_FAIL(write) ? -1 : write((fd), (b), (n)))
#define NKI_SYS_sigmask(how, set, old) pthread_sigmask((how), (set), (old))
#define NKI_SYS_sigpending(set) sigpending(set)
#define NKI_SYS_sigtimedwait(set, info, time) sigtimedwait((set), (info), (time))
#define NKI_SYS_pread(fd, b, n, at) \
    (NKI_FAIL(pread) ? -1 : NKI_PREAD((fd), (b), NKI_CLIP(pread, n), (at)))
#define NKI_SYS_pipe(fds) (NKI_FAIL(pipe) ? -1 : pipe(fds))
#define NKI_SYS_unlink(path) (NKI_FAIL(unlink) ? -1 : unlink(path))
#define NKI_SYS_lstat(path, st) (NKI_FAIL(lstat) ? -1 : lstat((path), (st)))
#define NKI_SYS_chmod(path, mode) (NKI_FAIL(chmod) ? -1 : chmod((path), (mode)))
#define NKI_SYS_lchmod(path, mode) \
    (NKI_FAIL(lchmod) ? -1 : fchmodat(AT_FDCWD, (path), (mode), AT_SYMLINK_NOFOLLOW))
#define NKI_SYS_fchmod(fd, mode) (NKI_FAIL(fchmod) ? -1 : fchmod((fd), (mode)))
#define NKI_SYS_getpeereid(s, u, g) (NKI_FAIL(getpeereid) ? -1 : getpeereid((s), (u), (g)))
#define NKI_SYS_getpid() ((int)getpid())
#define NKI_SYS_open(path, flags) (NKI_FAIL(open) ? -1 : open((path), (flags)))
#define NKI_SYS_poll(p, n, ms) (NKI_FAIL(poll) ? -1 : poll((p), (n), (ms)))
#define NKI_SYS_clock_gettime(id, t) (NKI_FAIL(clock_gettime) ? -1 : clock_gettime((id), (t)))
#define NKI_SYS_if_nametoindex(name) (NKI_FAIL(if_nametoindex) ? 0u : if_nametoindex(name))

#if NKI_BSD
#define NKI_SYS_getrandom(b, n) (NKI_FAIL(getrandom) ? -1 : (arc4random_buf((b), (n)), (long)(n)))
#elif NKI_LINUX
#define NKI_SYS_getrandom(b, n) \
    (NKI_FAIL(getrandom) ? -1 : syscall(SYS_getrandom, (b), (size_t)(n), 0u))
#endif

/* Offsets of 64 bits also where off_t has 32. */
#if NKI_LINUX && defined(__USE_LARGEFILE64)
#define NKI_PREAD(fd, b, n, at) pread64((fd), (b), (n), (off64_t)(at))
#else
#define NKI_PREAD(fd, b, n, at) pread((fd), (b), (n), (off_t)(at))
#endif
#if NKI_LINUX && defined(SYS_sendfile64)
#define NKI_NR_SENDFILE SYS_sendfile64
#elif NKI_LINUX
#define NKI_NR_SENDFILE SYS_sendfile
#endif
#if NKI_LINUX
#define NKI_SYS_sendfile(s, file, at, n) \
    (NKI_FAIL(sendfile)                  \
         ? -1                            \
         : (ssize_t)syscall(NKI_NR_SENDFILE, (s), (file), (at), (size_t)NKI_CLIP(sendfile, n)))
#elif NKI_APPLE
#define NKI_SYS_sendfile(s, file, at, n, sent) \
    (NKI_FAIL(sendfile)                        \
         ? -1                                  \
         : (*(sent) = (off_t)(n), sendfile((file), (s), (at), (sent), (struct sf_hdtr *)NULL, 0)))
#elif defined(__FreeBSD__)
#define NKI_SYS_sendfile(s, file, at, n, sent) \
    (NKI_FAIL(sendfile) ? -1 : sendfile((file), (s), (at), (n), NULL, (sent), 0))
#endif

#if NKI_LINUX
/* By number, for libcs without the function; -1 is ENOSYS to every kernel. */
#if defined(SYS_epoll_pwait2)
#define NKI_NR_EPOLL_PWAIT2 SYS_epoll_pwait2
#elif defined(__alpha__) || defined(__mips__) || (defined(__x86_64__) && defined(__ILP32__))
#define NKI_NR_EPOLL_PWAIT2 (-1)
#else
#define NKI_NR_EPOLL_PWAIT2 441
#endif
#define NKI_SYS_eventfd(v, f) (NKI_FAIL(eventfd) ? -1 : eventfd((v), (f)))
#define NKI_SYS_epoll_create() (NKI_FAIL(epoll_create) ? -1 : epoll_create1(EPOLL_CLOEXEC))
#define NKI_SYS_epoll_ctl(ep, op, fd, ev) \
    (NKI_FAIL(epoll_ctl) ? -1 : epoll_ctl((ep), (op), (fd), (struct epoll_event *)(void *)(ev)))
#define NKI_SYS_epoll_wait(ep, evs, n, ms) \
    (NKI_FAIL(epoll_wait) ? -1 : epoll_wait((ep), (struct epoll_event *)(evs), (n), (ms)))
#define NKI_SYS_epoll_pwait2(ep, evs, n, ts) \
    (NKI_FAIL(epoll_pwait2)                  \
         ? -1                                \
         : (int)syscall(NKI_NR_EPOLL_PWAIT2, (ep), (evs), (n), (ts), NULL, (size_t)8))
#endif

#if NKI_HAS_KQUEUE
#define NKI_SYS_kqueue() (NKI_FAIL(kqueue) ? -1 : kqueue())
#define NKI_SYS_kevent(kq, evs, n, t) \
    (NKI_FAIL(kevent) ? -1 : kevent((kq), NULL, 0, (evs), (n), (t)))
#define NKI_SYS_kevent_change(kq, evs, n) \
    (NKI_FAIL(kevent_change) ? -1 : kevent((kq), (evs), (n), NULL, 0, NULL))
#define NKI_SYS_kevent_trigger(kq, ev) \
    (NKI_FAIL(kevent_trigger) ? -1 : kevent((kq), (ev), 1, NULL, 0, NULL))
#endif

#if NKI_HAS_URING
/* One number on all architectures but one. */
#if defined(__alpha__)
#define NKI_NR_IO_URING 535
#else
#define NKI_NR_IO_URING 425
#endif
#define NKI_SYS_io_uring_setup(n, p) \
    (NKI_FAIL(io_uring_setup) ? -1 : (int)syscall(NKI_NR_IO_URING, (n), (p)))
#define NKI_SYS_io_uring_enter(fd, submit, wait, flags, arg, size) \
    (NKI_FAIL(io_uring_enter)                                      \
         ? -1                                                      \
         : (int)syscall(NKI_NR_IO_URING + 1, (fd), (submit), (wait), (flags), (arg), (size)))
#define NKI_SYS_io_uring_register(fd, op, arg, n) \
    (NKI_FAIL(io_uring_register) ? -1 : (int)syscall(NKI_NR_IO_URING + 2, (fd), (op), (arg), (n)))
/* A message to the ring of another, by who needs none to send it. */
#define NKI_SYS_io_uring_message(op, sqe) \
    (NKI_FAIL(io_uring_message) ? -1 : (int)syscall(NKI_NR_IO_URING + 2, -1, (op), (sqe), 1u))
/* The reader of completions: how many are there. In tests they sometimes come to light later. */
#define NKI_SYS_io_uring_cqes(count) ((uint32_t)NKI_MASK(io_uring_cqes, (count)))
/* The flag by which an operation goes on. In tests some are begun without it, so that the kernel
 * itself ends them at their first completion, which then comes without F_MORE. (To clear F_MORE in
 * what is read would be a lie: that operation would go on taking bytes out of the socket.) */
#define NKI_SYS_io_uring_multishot(flag) ((uint16_t)NKI_MASK(io_uring_multishot, (flag)))
#define NKI_SYS_gettid() ((uintptr_t)syscall(SYS_gettid)) /* which cannot fail */
#define NKI_SYS_dup3(from, to, flags) (NKI_FAIL(dup3) ? -1 : dup3((from), (to), (flags)))
#define NKI_SYS_mmap(size, flags, fd, offset) \
    (NKI_FAIL(mmap) ? MAP_FAILED              \
                    : mmap(NULL, (size), PROT_READ | PROT_WRITE, (flags), (fd), (offset)))
#define NKI_SYS_munmap(p, size) munmap((p), (size))
#define NKI_SYS_madvise(p, size, what) (NKI_FAIL(madvise) ? -1 : madvise((p), (size), (what)))
#endif

#endif /* NKI_POSIX */

/* ---- src/os/seam_windows.h ---- */
/* The seam on Windows: every system call the library makes, by name, as seam_posix.h.
 *
 * NKI_FAIL(name) is 0, or in tests a function that counts the call, may set WSAGetLastError and
 * returns true to have it fail. Where a call of POSIX does the same the name is the same, so that
 * a test need not know the system. close and cleanup are special: they must really be made.
 * Functions that only a socket can give (WSARecvMsg, ...) and those of ntdll come as a pointer, by
 * NKI_SYS_extension and NKI_SYS_ntdll: nothing is linked but ws2_32 and what every program has.
 * Counts are ints and ULONGs here; whoever calls has cut them. */

#if NKI_WINDOWS

/* Not in every SDK. */
#ifndef WSA_FLAG_NO_HANDLE_INHERIT
#define WSA_FLAG_NO_HANDLE_INHERIT 0x80
#endif

#define NKI_SYS_startup(version, data) \
    (NKI_FAIL(startup) ? WSAGetLastError() : WSAStartup((version), (data)))
#define NKI_SYS_cleanup() (WSACleanup() != 0 || NKI_FAIL(cleanup) ? -1 : 0)

/* Overlapped, which costs nothing and lets a socket be used in every way there is. */
#define NKI_SYS_socket(f, t, p) \
    (NKI_FAIL(socket)           \
         ? INVALID_SOCKET       \
         : WSASocketW((f), (t), (p), NULL, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT))
#define NKI_SYS_bind(s, a, n) (NKI_FAIL(bind) ? -1 : bind((s), (a), (n)))
#define NKI_SYS_listen(s, n) (NKI_FAIL(listen) ? -1 : listen((s), (n)))
#define NKI_SYS_connect(s, a, n) (NKI_FAIL(connect) ? -1 : connect((s), (a), (n)))
#define NKI_SYS_connect_ex(call, s, a, n, overlapped) \
    (NKI_FAIL(connect) ? FALSE : (call)((s), (a), (n), NULL, 0, NULL, (overlapped)))
#define NKI_SYS_accept(s, a, n) (NKI_FAIL(accept) ? INVALID_SOCKET : accept((s), (a), (n)))
#define NKI_SYS_recv(s, b, n, f) \
    (NKI_FAIL(recv) ? -1 : recv((s), (char *)(b), (int)NKI_CLIP(recv, n), (f)))
#define NKI_SYS_send(s, b, n, f) \
    (NKI_FAIL(send) ? -1 : send((s), (const char *)(b), (int)NKI_CLIP(send, n), (f)))
/* Gathered and scattered; the callers ask NKI_CLIP for their total, as those of sendmsg do. */
#define NKI_SYS_sendv(s, bufs, count, sent) \
    (NKI_FAIL(sendmsg) ? -1 : WSASend((s), (bufs), (count), (sent), 0, NULL, NULL))
#define NKI_SYS_sendto(s, bufs, count, sent, to, to_len) \
    (NKI_FAIL(sendmsg) ? -1                              \
                       : WSASendTo((s), (bufs), (count), (sent), 0, (to), (to_len), NULL, NULL))
#define NKI_SYS_recvv(s, bufs, count, got, flags) \
    (NKI_FAIL(recvmsg) ? -1 : WSARecv((s), (bufs), (count), (got), (flags), NULL, NULL))
#define NKI_SYS_sendmsg(s, msg, sent) \
    (NKI_FAIL(sendmsg) ? -1 : WSASendMsg((s), (msg), 0, (sent), NULL, NULL))
#define NKI_SYS_recvmsg(call, s, msg, got) \
    (NKI_FAIL(recvmsg) ? -1 : (call)((s), (msg), (got), NULL, NULL))
#define NKI_SYS_shutdown(s, how) (NKI_FAIL(shutdown) ? -1 : shutdown((s), (how)))
#define NKI_SYS_close(s) (closesocket(s) != 0 || NKI_FAIL(close) ? -1 : 0)
#define NKI_SYS_getsockopt(s, l, o, v, n) \
    (NKI_FAIL(getsockopt) ? -1 : getsockopt((s), (l), (o), (char *)(v), (n)))
#define NKI_SYS_setsockopt(s, l, o, v, n) \
    (NKI_FAIL(setsockopt) ? -1 : setsockopt((s), (l), (o), (const char *)(v), (n)))
#define NKI_SYS_getsockname(s, a, n) (NKI_FAIL(getsockname) ? -1 : getsockname((s), (a), (n)))
#define NKI_SYS_getpeername(s, a, n) (NKI_FAIL(getpeername) ? -1 : getpeername((s), (a), (n)))
#define NKI_SYS_ioctl(s, code, value) (NKI_FAIL(ioctl) ? -1 : ioctlsocket((s), (code), (value)))
#define NKI_SYS_control(s, code, in, in_size, out, out_size, got) \
    (NKI_FAIL(control)                                            \
         ? -1                                                     \
         : WSAIoctl((s), (code), (in), (in_size), (out), (out_size), (got), NULL, NULL))
/* A function of the socket's provider, by its number. */
#define NKI_SYS_extension(s, guid, call, size, got)                                  \
    (NKI_FAIL(extension) ? -1                                                        \
                         : WSAIoctl((s), SIO_GET_EXTENSION_FUNCTION_POINTER, (guid), \
                                    (DWORD)sizeof *(guid), (call), (size), (got), NULL, NULL))
#define NKI_SYS_select(r, w, x, time) (NKI_FAIL(poll) ? -1 : select(0, (r), (w), (x), (time)))
#define NKI_SYS_poll(p, n, ms) (NKI_FAIL(poll) ? -1 : WSAPoll((p), (n), (ms)))

/* Handles. */
#define NKI_SYS_close_handle(h) CloseHandle(h)
#define NKI_SYS_set_handle(h, mask, flags) \
    (NKI_FAIL(set_handle) ? FALSE : SetHandleInformation((h), (mask), (flags)))
#define NKI_SYS_get_handle(h, flags) \
    (NKI_FAIL(get_handle) ? FALSE : GetHandleInformation((h), (flags)))
#define NKI_SYS_dup(h, out)                                                                   \
    (NKI_FAIL(dup) ? FALSE                                                                    \
                   : DuplicateHandle(GetCurrentProcess(), (h), GetCurrentProcess(), (out), 0, \
                                     FALSE, DUPLICATE_SAME_ACCESS))
#define NKI_SYS_file_type(h) (NKI_FAIL(file_type) ? (DWORD)FILE_TYPE_UNKNOWN : GetFileType(h))
#define NKI_SYS_pread(h, b, n, got, at) \
    (NKI_FAIL(pread) ? FALSE : ReadFile((h), (b), (DWORD)NKI_CLIP(pread, n), (got), (at)))
#define NKI_SYS_pread_result(h, at, got) GetOverlappedResult((h), (at), (got), TRUE)
#define NKI_SYS_seek(h, to, out, from) \
    (NKI_FAIL(seek) ? FALSE : SetFilePointerEx((h), (to), (out), (from)))
#define NKI_SYS_reopen(h)                             \
    (NKI_FAIL(reopen) ? INVALID_HANDLE_VALUE          \
                      : ReOpenFile((h), GENERIC_READ, \
                                   FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, 0))
#define NKI_SYS_open(path, access, flags)                                                        \
    (NKI_FAIL(open)                                                                              \
         ? INVALID_HANDLE_VALUE                                                                  \
         : CreateFileW((path), (access), FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, \
                       NULL, OPEN_EXISTING, (flags), NULL))
#define NKI_SYS_file_id(h, out) (NKI_FAIL(file_id) ? FALSE : GetFileInformationByHandle((h), (out)))
#define NKI_SYS_file_tag(h, out) \
    (NKI_FAIL(file_tag)          \
         ? FALSE                 \
         : GetFileInformationByHandleEx((h), FileAttributeTagInfo, (out), (DWORD)sizeof *(out)))
#define NKI_SYS_unlink(path) (NKI_FAIL(unlink) ? FALSE : DeleteFileW(path))

/* Events, for the few calls that are waited for. */
#define NKI_SYS_event() (NKI_FAIL(event) ? NULL : CreateEventW(NULL, TRUE, FALSE, NULL))
#define NKI_SYS_wait_handle(h, ms) \
    (NKI_FAIL(wait_handle) ? WAIT_FAILED : WaitForSingleObject((h), (ms)))
#define NKI_SYS_cancel(h, overlapped) CancelIoEx((h), (overlapped))
#define NKI_SYS_result(s, overlapped, got, wait, flags) \
    WSAGetOverlappedResult((s), (overlapped), (got), (wait), (flags))

/* The system. */
#define NKI_SYS_clock(out) (NKI_FAIL(clock_gettime) ? FALSE : QueryPerformanceCounter(out))
#define NKI_SYS_clock_rate(out) QueryPerformanceFrequency(out)
#define NKI_SYS_getrandom(b, n) (NKI_FAIL(getrandom) ? FALSE : RtlGenRandom((b), (n)))
#define NKI_SYS_thread_id() GetCurrentThreadId()
#define NKI_SYS_temp_folder(out, n) (NKI_FAIL(temp_folder) ? 0u : GetTempPathW((n), (out)))
#define NKI_SYS_getpid() ((int)GetCurrentProcessId())
#define NKI_SYS_library(name) \
    (NKI_FAIL(library) ? NULL : LoadLibraryExW((name), NULL, LOAD_LIBRARY_SEARCH_SYSTEM32))
#define NKI_SYS_free_library(library) FreeLibrary(library)
#define NKI_SYS_symbol(library, name) GetProcAddress((library), (name))
#define NKI_SYS_if_nametoindex(call, name) (NKI_FAIL(if_nametoindex) ? 0u : (call)(name))

/* ---- completion ports and the device of Winsock's driver --------------------- */

#define NKI_SYS_port_create() \
    (NKI_FAIL(port_create) ? NULL : CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0))
#define NKI_SYS_port_add(port, h, key) \
    (NKI_FAIL(port_add) ? NULL : CreateIoCompletionPort((h), (port), (key), 0))
#define NKI_SYS_port_wait(port, entries, most, count, ms) \
    (NKI_FAIL(port_wait)                                  \
         ? FALSE                                          \
         : GetQueuedCompletionStatusEx((port), (entries), (most), (count), (ms), FALSE))
/* The last resort of who closes a port is not failed, as little as closing is. */
#define NKI_SYS_port_drain(port, entries, most, count, ms) \
    GetQueuedCompletionStatusEx((port), (entries), (most), (count), (ms), FALSE)
#define NKI_SYS_port_post(port, key, overlapped) \
    (NKI_FAIL(port_post) ? FALSE : PostQueuedCompletionStatus((port), 0, (key), (overlapped)))
#define NKI_SYS_port_modes(h, modes) \
    (NKI_FAIL(port_modes) ? FALSE : SetFileCompletionNotificationModes((h), (modes)))

/* Of ntdll, which every process has: NKI_SYS_ntdll(name) is a FARPROC or NULL. They return an
 * NTSTATUS; one that is failed by a test has the test's code in it, as those of facility 1 have. */
#define NKI_NT_FAILED() ((LONG)(0xC0010000u | (GetLastError() & 0xFFFFu)))
#define NKI_SYS_ntdll(name) \
    (NKI_FAIL(ntdll) ? NULL : GetProcAddress(GetModuleHandleW(L"ntdll.dll"), (name)))
#define NKI_SYS_nt_open(call, out, access, attributes, status, share, how) \
    (NKI_FAIL(nt_open)                                                     \
         ? NKI_NT_FAILED()                                                 \
         : (call)((out), (access), (attributes), (status), NULL, 0, (share), (how), 0, NULL, 0))
#define NKI_SYS_nt_control(call, h, context, status, code, in, in_size, out, out_size)            \
    (NKI_FAIL(nt_control) ? NKI_NT_FAILED()                                                       \
                          : (call)((h), NULL, NULL, (context), (status), (code), (in), (in_size), \
                                   (out), (out_size)))
#define NKI_SYS_nt_cancel(call, h, which, status) \
    (NKI_FAIL(nt_cancel) ? NKI_NT_FAILED() : (call)((h), (which), (status)))

#endif /* NKI_WINDOWS */

/* ---- src/os/os.h ---- */
/* What the rooms above may ask of the operating system: one set of functions, implemented by
 * *_posix.c and *_windows.c side by side. Each returns 0 or a count, or a negative NETKIT_E_*,
 * and then nki_os_code() is the system's own code. A socket is a uintptr_t nobody interprets;
 * UINTPTR_MAX is none, and every out-parameter is that, or zeroed, on failure. */

/* The longest name of an interface, with its NUL. */
#if NKI_WINDOWS
#define NKI_IF_NAMESIZE 257
#else
#define NKI_IF_NAMESIZE IF_NAMESIZE
#endif

/* What must be begun before sockets exist, and ended after the last of them: each loop and poller
 * pairs the two. */
static int nki_os_begin(void);
static void nki_os_end(void);

static int nki_os_code(void);
static int nki_os_fail(int os_code); /* what the system's code is to us; kept as nki_os_code */

static uint64_t nki_os_now_ns(void);                /* monotonic */
static int nki_os_random(void *out, size_t size);   /* from the kernel */
static NKI_HOT uintptr_t nki_os_thread_id(void);    /* never 0 */
static uint32_t nki_os_interface(const char *name); /* index, or 0 */

/* A descriptor that another thread, or a signal handler, can make readable. */
typedef struct nki_wake {
    uintptr_t reader;
    uintptr_t writer; /* the same as reader for an eventfd */
} nki_wake;
static int nki_os_wake_open(nki_wake *out);
static void nki_os_wake_close(nki_wake *wake);
static int nki_os_wake_signal(const nki_wake *wake); /* a full one is as good as signalled */
static void nki_os_wake_drain(const nki_wake *wake);

/* `type` is NETKIT_SOCK_*, `flags` of bind NETKIT_SOCKET_*. Accepted sockets are non-blocking. */
static int nki_os_socket(int family, int type, bool is_blocking, uintptr_t *out);
static int nki_os_pair(int type, bool is_blocking, uintptr_t out[2]);
/* The same for sockets that no loop owns, and that outlive all of them. */
static int nki_os_plain_socket(int family, int type, bool is_blocking, uintptr_t *out);
static int nki_os_plain_pair(int type, bool is_blocking, uintptr_t out[2]);
static int nki_os_bind(uintptr_t s, const netkit_addr *addr, int flags);
static int nki_os_listen(uintptr_t s, int backlog);                       /* 0 = the most */
static int nki_os_accept(uintptr_t s, uintptr_t *out, netkit_addr *peer); /* peer may be NULL */
/* NETKIT_E_AGAIN: under way; NETKIT_E_FULL: the backlog of a unix listener is, try later. */
static int nki_os_connect(uintptr_t s, const netkit_addr *addr);
/* NETKIT_E_AGAIN while under way, NETKIT_E_NOTCONN when it never was. */
static int nki_os_connect_result(uintptr_t s);
/* Connect within a time (0: only begin), on a blocking socket, too, which stays one. */
static int nki_os_connect_within(uintptr_t s, const netkit_addr *addr, int timeout_ms);
/* Have a blocking socket not wait, where single calls cannot be told so; and as it was. */
static int nki_os_unblock(uintptr_t s, bool *was_blocking);
static int nki_os_reblock(uintptr_t s, bool was_blocking);

/* recv takes 0 bytes for the end of a stream: NETKIT_E_EOF. Only who may hold a datagram socket,
 * where it is an empty datagram, needs to ask nki_os_is_datagram then. The _now forms do not
 * wait on a blocking socket either. Sending to a peer that is gone is NETKIT_E_RESET. */
static NKI_HOT int nki_os_recv(uintptr_t s, void *data, size_t len); /* len up to INT_MAX */
static int nki_os_recv_flags(uintptr_t s, void *data, size_t len, int flags);
static int nki_os_recv_now(uintptr_t s, void *data, size_t len);
static NKI_HOT int nki_os_send(uintptr_t s, const void *data, size_t len); /* len up to INT_MAX */
static int nki_os_send_flags(uintptr_t s, const void *data, size_t len, int flags);
static int nki_os_send_now(uintptr_t s, const void *data, size_t len);
static int nki_os_sendv(uintptr_t s, const netkit_span *spans, size_t count, int flags);
static int nki_os_sendv_now(uintptr_t s, const netkit_span *spans, size_t count);
static int nki_os_recvv(uintptr_t s, const netkit_room *rooms, size_t count, int flags);
static int nki_os_recvv_now(uintptr_t s, const netkit_room *rooms, size_t count);
static bool nki_os_is_datagram(uintptr_t s);
/* Up to a part of a file, 2 MiB at most; NETKIT_E_TRUNCATED: the file has no more. */
static int nki_os_send_file(uintptr_t s, uintptr_t file, uint64_t offset, uint64_t len,
                            bool is_waiting);
static int nki_os_file_size(uintptr_t file, uint64_t *out); /* NETKIT_E_INVALID: not a plain file */
static int nki_os_dup_file(uintptr_t file, uintptr_t *out);
static void nki_os_abandon_file(uintptr_t file); /* close it, keep the code of a failure */

/* Wait for NETKIT_POLL_* until the clock says deadline_ns (NKI_NEVER: no limit). Returns those
 * that hold or NETKIT_E_TIMEOUT. */
static int nki_os_wait(uintptr_t s, uint32_t events, uint64_t deadline_ns);
static int nki_os_timed_out(void); /* NETKIT_E_TIMEOUT, with the system's code for it */

static int nki_os_shutdown(uintptr_t s, int how); /* NETKIT_SHUT_* */
static int nki_os_close(uintptr_t s);             /* whatever it returns, s is closed */
static int nki_os_reset(uintptr_t s);             /* close with RST */
static void nki_os_abandon(uintptr_t s); /* close on the way out of a failure, keep its code */
static int nki_os_local(uintptr_t s, netkit_addr *out);
static int nki_os_remote(uintptr_t s, netkit_addr *out);
static int nki_os_set_option(uintptr_t s, netkit_option option, int value);
static int nki_os_get_option(uintptr_t s, netkit_option option, int *value);
static int nki_os_set_text(uintptr_t s, netkit_option option, const char *value);
static int nki_os_get_text(uintptr_t s, netkit_option option, char *text, size_t size);

/* Messages. The forms with fds are for streams in drivers: send as the bytes they begin with,
 * receive as recv, NETKIT_E_TRUNCATED when descriptors were lost (fds: room for NETKIT_FDS_MAX). */
static int nki_os_send_msg(uintptr_t s, const netkit_message_out *out);
static int nki_os_recv_msg(uintptr_t s, netkit_message_in *in);
static void nki_os_forget_in(netkit_message_in *in); /* nothing has come */
static int nki_os_send_fds(uintptr_t s, const void *data, size_t len, const uintptr_t *fds,
                           size_t count);
static int nki_os_recv_fds(uintptr_t s, void *data, size_t len, uintptr_t *fds, size_t *count);
static int nki_os_dup(uintptr_t native, uintptr_t *out);

/* Unix sockets. bind_unix binds whatever address: *file is none for those without a file. */
static int nki_os_bind_unix(uintptr_t s, const netkit_addr *addr, int flags, uint32_t mode,
                            netkit_unix_file *file);
static int nki_os_unlink_unix(const netkit_unix_file *file);
static void nki_os_undo_unix(netkit_unix_file *file); /* keeps the code, as nki_os_abandon */
static int nki_os_credentials(uintptr_t s, netkit_credentials *out);
static uint64_t nki_os_process(void);
static int nki_os_temp_folder(char *out, size_t size); /* where anybody may make files */

/* ---- datagrams ---- */

/* Where a datagram goes, and how: what a send needs of a netkit_datagram, in 48 bytes. */
typedef struct nki_route {
    uint8_t family;       /* NETKIT_AF_*, NONE = the connected peer */
    uint8_t level;        /* IPV4 or IPV6: whose options go with it */
    uint8_t local_family; /* NONE = any address */
    uint8_t tos;
    uint8_t ttl; /* 0 = the socket's */
    uint8_t unused;
    uint16_t port;
    uint32_t scope;
    uint32_t interface_index;
    uint8_t ip[16];
    uint8_t local[16];
} nki_route;

/* One message for the system. */
typedef struct nki_dgram_out {
    const void *data;
    size_t len;
    uint32_t segment; /* cut it so, 0 = not */
    const nki_route *route;
    const netkit_addr *path; /* unix: instead of the route's address */
} nki_dgram_out;

/* Where datagrams are received: `count` parts of `size` bytes, `stride` apart. */
typedef struct nki_dgram_room {
    unsigned char *memory;
    size_t stride;
    size_t size;
    unsigned count; /* at most NKI_DGRAM_BATCH, and what the scratch was made for */
    bool may_block; /* the socket is somebody else's */
} nki_dgram_room;

enum {
    NKI_DGRAM_BATCH = 64,
    NKI_DGRAM_SEGMENTS = 64 /* the most that every kernel with GSO cuts (UDP_MAX_SEGMENTS) */
};

/* `scratch` is memory of nki_os_dgram_scratch(count) bytes, aligned as by malloc, one for each
 * direction; that for receiving zeroed at first, as `out` is. Both return a
 * count of 1 or more, NETKIT_E_AGAIN or an error; a datagram that failed leaves those behind it
 * alone. `is_ipv6`: the family of the socket. */
static size_t nki_os_dgram_scratch(unsigned count);
static int nki_os_recv_dgrams(uintptr_t s, void *scratch, netkit_datagram *out,
                              const nki_dgram_room *room);
static int nki_os_send_dgrams(uintptr_t s, bool is_ipv6, void *scratch, const nki_dgram_out *out,
                              unsigned count);
/* The next report of a datagram that failed: NETKIT_OK, NETKIT_E_AGAIN: there is none. */
static int nki_os_recv_failed(uintptr_t s, netkit_datagram *out, void *memory, size_t size);
static int nki_os_join(uintptr_t s, bool is_join, const netkit_addr *group,
                       uint32_t interface_index, const netkit_addr *source);
static uint32_t nki_os_dgram_caps(uintptr_t s);
static int nki_os_set_buffers(uintptr_t s, uint32_t recv_size, uint32_t send_size);
static int nki_os_family(uintptr_t s, int *family); /* NETKIT_AF_* */
static int nki_os_set_ip_option(uintptr_t s, netkit_option option, int value);
static int nki_os_get_ip_option(uintptr_t s, netkit_option option, int *value);

/* ---- src/os/sockaddr.c ---- */
/* Addresses as the kernel takes and gives them: netkit_addr to and from struct sockaddr_*.
 *
 * For unix sockets the length is part of the address, and the two kinds count it
 * differently (unix(7)): an abstract name is every byte up to the length, so one byte
 * too many names another socket; a path ends at its NUL, which Linux leaves out when
 * the path fills sun_path whole, and then counts in the length it reports, one more
 * than the structure has.
 *
 * An IPv4 peer of a dual-stack socket comes as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). It
 * reads as plain IPv4, because that is what it is: logs, limits by address and
 * netkit_addr.family then do not depend on how the listener was opened. The way back
 * is nki_sockaddr_from with the IPv6 form: macOS and the BSDs take no AF_INET address
 * on an AF_INET6 socket. */

#if NKI_WINDOWS
/* Of <afunix.h>, which not every SDK has. */
typedef struct nki_sockaddr_un {
    unsigned short sun_family;
    char sun_path[108];
} nki_sockaddr_un;
#else
typedef struct sockaddr_un nki_sockaddr_un;
#endif

/* The limit of a path leaves room for the NUL that other programs need to reach it, the
 * limit of an abstract name room for the NUL in front. Windows takes abstract names, and lets
 * nobody connect to them. */
static const nki_addr_rules nki_os_addr_rules = {
    sizeof(((nki_sockaddr_un *)NULL)->sun_path) - 1,
    NKI_LINUX != 0,
};
NKI_STATIC_ASSERT(unix_path, sizeof(((nki_sockaddr_un *)NULL)->sun_path) <= NETKIT_UNIX_PATH_MAX);

static socklen_t nki_sockaddr_from_ipv4(struct sockaddr_storage *out, const netkit_addr *addr) {
    struct sockaddr_in sa;
    memset(&sa, 0, sizeof(sa));
    sa.sin_family = AF_INET;
    sa.sin_port = htons(addr->port);
    memcpy(&sa.sin_addr, addr->ip, 4);
    memcpy(out, &sa, sizeof(sa));
    return (socklen_t)sizeof(sa);
}

static socklen_t nki_sockaddr_from_ipv6(struct sockaddr_storage *out, const netkit_addr *addr) {
    struct sockaddr_in6 sa;
    memset(&sa, 0, sizeof(sa));
    sa.sin6_family = AF_INET6;
    sa.sin6_port = htons(addr->port);
    sa.sin6_scope_id = addr->scope;
    memcpy(&sa.sin6_addr, addr->ip, 16);
    memcpy(out, &sa, sizeof(sa));
    return (socklen_t)sizeof(sa);
}

/* The length of an address, or 0 for one the system cannot take exactly. A path that
 * fills sun_path whole can only have come from the kernel, and goes back as it came. */
static socklen_t nki_sockaddr_from_unix(struct sockaddr_storage *out, const netkit_addr *addr) {
    nki_sockaddr_un sa;
    size_t len = addr->path_len;
    size_t skip = addr->is_abstract ? 1 : 0;
    if (skip + len > sizeof(sa.sun_path) ||
        (skip != 0 ? !nki_os_addr_rules.has_abstract : len == 0)) {
        return 0;
    }
    memset(&sa, 0, sizeof(sa));
    sa.sun_family = AF_UNIX;
    memcpy(sa.sun_path + skip, addr->path, len);
    memcpy(out, &sa, sizeof(sa));
    if (skip == 0 && len < sizeof(sa.sun_path)) {
        len++; /* the NUL */
    }
    return (socklen_t)(offsetof(nki_sockaddr_un, sun_path) + skip + len);
}

/* Returns NETKIT_OK or NETKIT_E_INVALID, and then *len is 0. An address of ":port" gives
 * the IPv6 wildcard. */
static int nki_sockaddr_from(struct sockaddr_storage *out, socklen_t *len,
                             const netkit_addr *addr) {
    memset(out, 0, sizeof(*out));
    *len = 0;
    switch (addr->family) {
    case NETKIT_AF_IPV4: *len = nki_sockaddr_from_ipv4(out, addr); break;
    case NETKIT_AF_IPV6: *len = nki_sockaddr_from_ipv6(out, addr); break;
    case NETKIT_AF_UNIX: *len = nki_sockaddr_from_unix(out, addr); break;
    default: break;
    }
#if NKI_BSD
    out->ss_len = (uint8_t)*len;
#endif
    return *len == 0 ? NETKIT_E_INVALID : NETKIT_OK;
}

static void nki_sockaddr_to_ipv6(netkit_addr *out, const struct sockaddr_storage *sa) {
    struct sockaddr_in6 in6;
    memcpy(&in6, sa, sizeof(in6));
    out->port = ntohs(in6.sin6_port);
    memcpy(out->ip, &in6.sin6_addr, 16);
    if (nki_ip_is_mapped(out->ip)) {
        out->family = NETKIT_AF_IPV4;
        memmove(out->ip, out->ip + 12, 4);
        memset(out->ip + 4, 0, 12);
    } else {
        out->family = NETKIT_AF_IPV6;
        out->scope = in6.sin6_scope_id;
    }
}

/* No path at all is a socket that was never bound; so reads, too, a path longer than
 * netkit_addr has room for (the BSDs take up to 253 bytes): cut, it would name another. */
static void nki_sockaddr_to_unix(netkit_addr *out, const struct sockaddr_storage *sa, size_t len) {
    const char *path = (const char *)sa + offsetof(nki_sockaddr_un, sun_path);
    out->family = NETKIT_AF_UNIX;
    len -= NKI_MIN(len, offsetof(nki_sockaddr_un, sun_path));
    if (len > 0 && path[0] == 0 && nki_os_addr_rules.has_abstract) {
        out->is_abstract = true;
        path++;
        len--;
    } else {
        const char *end = (const char *)memchr(path, 0, len);
        len = end != NULL ? (size_t)(end - path) : len;
    }
    if (len <= NETKIT_UNIX_PATH_MAX) {
        memcpy(out->path, path, len);
        out->path_len = (uint8_t)len;
    }
}

/* Read what the kernel wrote; `len` is the length it reported, which may be beyond the
 * structure. What is no address of ours (or none at all: an unbound peer's datagram)
 * reads as NETKIT_AF_NONE. */
static void nki_sockaddr_to(netkit_addr *out, const struct sockaddr_storage *sa, socklen_t len) {
    size_t size = NKI_MIN((size_t)len, sizeof(*sa));
    memset(out, 0, sizeof(*out));
    if (size < offsetof(nki_sockaddr_un, sun_path)) {
        return;
    }
    if (sa->ss_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        out->family = NETKIT_AF_IPV4;
        out->port = ntohs(in.sin_port);
        memcpy(out->ip, &in.sin_addr, 4);
    } else if (sa->ss_family == AF_INET6 && size >= sizeof(struct sockaddr_in6)) {
        nki_sockaddr_to_ipv6(out, sa);
    } else if (sa->ss_family == AF_UNIX) {
        nki_sockaddr_to_unix(out, sa, size);
    }
}

/* ---- src/os/addr.c ---- */
/* The addresses that need the system: reading one (a zone may name an interface) and
 * making one of a path (its limit is the system's). The work is in src/base/addr.c. */

/* Look up the zone a scanner left. The length is checked here because an overlong name
 * cut to fit could match another interface (musl's if_nametoindex cuts). */
static uint32_t nki_addr_zone(const nki_addr_scanner *s) {
    char name[NKI_IF_NAMESIZE];
    if (s->zone_len >= sizeof(name)) {
        return 0;
    }
    memcpy(name, s->text + s->zone_at, s->zone_len);
    name[s->zone_len] = 0;
    return nki_os_interface(name);
}

NETKIT_API int netkit_addr_parse_n(netkit_addr *out, const char *text, size_t len,
                                   size_t *error_at) {
    netkit_addr addr;
    nki_addr_scanner s;
    int code = NETKIT_E_INVALID;
    memset(&addr, 0, sizeof(addr));
    memset(&s, 0, sizeof(s));
    s.text = text;
    s.len = len;
    if (out != NULL && text != NULL) {
        code = nki_addr_scan(&addr, &s, &nki_os_addr_rules);
    }
    if (code == NETKIT_OK && s.zone_len > 0) {
        addr.scope = nki_addr_zone(&s);
        if (addr.scope == 0) {
            memset(&addr, 0, sizeof(addr));
            s.at = s.zone_at;
            code = NETKIT_E_NOTFOUND;
        }
    }
    if (out != NULL) {
        *out = addr;
    }
    if (error_at != NULL) {
        *error_at = s.at;
    }
    return code;
}

NETKIT_API int netkit_addr_parse(netkit_addr *out, const char *text, size_t *error_at) {
    return netkit_addr_parse_n(out, text, text != NULL ? strlen(text) : 0, error_at);
}

NETKIT_API int netkit_addr_from_path(netkit_addr *out, const char *path, size_t len,
                                     bool is_abstract) {
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_addr_set_path(out, path, len, is_abstract, &nki_os_addr_rules);
}

/* ---- src/os/common.c ---- */
/* What *_posix.c and *_windows.c have in common: the same on every system, and needed by them
 * before the parts of users' calls. */

static int nki_os_domain(int family) {
    switch (family) {
    case NETKIT_AF_IPV4: return AF_INET;
    case NETKIT_AF_IPV6: return AF_INET6;
    case NETKIT_AF_UNIX: return AF_UNIX;
    default: return -1;
    }
}

static uint64_t nki_os_process(void) {
    return (uint64_t)NKI_SYS_getpid();
}

/* A time limit in milliseconds as a time of the clock. Negative is no limit. */
static uint64_t nki_os_deadline(int timeout_ms) {
    if (timeout_ms < 0) {
        return NKI_NEVER;
    }
    return nki_os_now_ns() + (uint64_t)timeout_ms * NKI_NS_PER_MS;
}

/* Nanoseconds as poll's milliseconds: up, since down would end in waits of 0 until the time has
 * really come, and cut to what an int holds. */
static int nki_os_poll_ms(uint64_t timeout_ns) {
    if (timeout_ns == NKI_NEVER) {
        return -1;
    }
    uint64_t ms = timeout_ns / NKI_NS_PER_MS + (timeout_ns % NKI_NS_PER_MS != 0 ? 1u : 0u);
    return ms > (uint64_t)INT_MAX ? INT_MAX : (int)ms;
}

/* ---- options ---- */

/* What values an option takes. */
enum {
    NKI_OPTION_BOOL = 0,
    NKI_OPTION_POSITIVE = 1,
    NKI_OPTION_NATURAL = 2,
    NKI_OPTION_TIME = 3,  /* milliseconds that the system has as a struct */
    NKI_OPTION_LINGER = 4 /* seconds, or -1 */
};

typedef struct nki_option_row {
    int option;
    int level; /* -1 = the system has none such */
    int name;
    int values; /* NKI_OPTION_* */
} nki_option_row;

typedef struct nki_ip_option {
    int option;
    int level; /* of a plain one, 0 = a pair of IP's */
    int name;  /* or the one of IPv4 */
    int name6;
    int min;
    int max;
} nki_ip_option;

static bool nki_option_accepts(int values, int value) {
    if (values == NKI_OPTION_BOOL) {
        return value == 0 || value == 1;
    }
    if (values == NKI_OPTION_LINGER) {
        return value >= -1 && value <= INT16_MAX; /* macOS has 16 bits for it */
    }
    return value >= (values == NKI_OPTION_POSITIVE ? 1 : 0);
}

/* ---- messages and datagrams ---- */

static void nki_os_forget_in(netkit_message_in *in) {
    in->fds_count = 0;
    in->control_len = 0;
    memset(&in->from, 0, sizeof in->from);
    in->sender.pid = in->sender.uid = in->sender.gid = -1;
    in->is_cut = in->is_fds_cut = in->is_control_cut = false;
}

static void nki_dgram_ipv4(netkit_addr *out, const void *ip) {
    out->family = NETKIT_AF_IPV4;
    memset(out->ip, 0, sizeof(out->ip));
    out->scope = 0;
    memcpy(out->ip, ip, 4);
}

static void nki_dgram_ipv6(netkit_addr *out, const void *ip, uint32_t interface_index) {
    memcpy(out->ip, ip, 16);
    if (nki_ip_is_mapped(out->ip)) {
        nki_dgram_ipv4(out, (const char *)ip + 12);
        return;
    }
    out->family = NETKIT_AF_IPV6;
    bool is_link_local = out->ip[0] == 0xFE && (out->ip[1] & 0xC0) == 0x80;
    out->scope = is_link_local ? interface_index : 0;
}

static void nki_dgram_clear(netkit_datagram *out) {
    out->time_ns = 0;
    memset(&out->local, 0, offsetof(netkit_addr, path));
    out->interface_index = 0;
    out->segment_size = 0;
    out->mtu = 0;
    out->error = 0;
    out->os_code = 0;
    out->tos = 0;
    out->ttl = 0;
}

/* ---- src/os/system_posix.c ---- */
/* The system on POSIX: codes of errors, clock, randomness, thread identity, interfaces.
 *
 * errno is the system's code, untouched between a failure and nki_os_code. No state is kept
 * here. */

#if NKI_POSIX

typedef struct nki_os_row {
    int os_code;
    int code;
} nki_os_row;

static int nki_os_begin(void) {
    return NETKIT_OK;
}

static void nki_os_end(void) {}

static int nki_os_code(void) {
    return errno;
}

/* EAGAIN comes first: it is the only one that steady traffic meets. Several names may share one
 * number (EAGAIN and EWOULDBLOCK, ENOTSUP and EOPNOTSUPP), which a switch would not compile. */
NETKIT_API int netkit_error_from_os(int os_code) {
    static const nki_os_row rows[] = {
        {EAGAIN, NETKIT_E_AGAIN},
        {EWOULDBLOCK, NETKIT_E_AGAIN},
        {EINPROGRESS, NETKIT_E_AGAIN},
        {EALREADY, NETKIT_E_AGAIN},
        {ECONNRESET, NETKIT_E_RESET},
        {EPIPE, NETKIT_E_RESET}, /* the peer's end is gone, however it went */
        {ENETRESET, NETKIT_E_RESET},
        {ECONNREFUSED, NETKIT_E_REFUSED},
        {ETIMEDOUT, NETKIT_E_TIMEOUT},
        {ECONNABORTED, NETKIT_E_ABORTED},
        {ENOTCONN, NETKIT_E_NOTCONN},
        {EDESTADDRREQ, NETKIT_E_NOTCONN},
        {EINTR, NETKIT_E_INTERRUPTED},
        {ENETUNREACH, NETKIT_E_UNREACHABLE},
        {EHOSTUNREACH, NETKIT_E_UNREACHABLE},
        {ENETDOWN, NETKIT_E_UNREACHABLE},
        {EHOSTDOWN, NETKIT_E_UNREACHABLE},
        {EADDRINUSE, NETKIT_E_ADDRINUSE},
        {EADDRNOTAVAIL, NETKIT_E_ADDRNOTAVAIL},
        {EMFILE, NETKIT_E_MFILE},
        {ENFILE, NETKIT_E_MFILE},
        {ETOOMANYREFS, NETKIT_E_MFILE}, /* of descriptors that are on their way */
        {ENOMEM, NETKIT_E_NOMEM},
        {ENOBUFS, NETKIT_E_NOMEM},
        {ENOSPC, NETKIT_E_FULL},
        {EMSGSIZE, NETKIT_E_TOOBIG},
        {ENAMETOOLONG, NETKIT_E_TOOBIG},
        {E2BIG, NETKIT_E_TOOBIG},
        {EACCES, NETKIT_E_ACCESS},
        {EPERM, NETKIT_E_ACCESS},
        {EROFS, NETKIT_E_ACCESS},
        {EEXIST, NETKIT_E_EXISTS},
        {EISCONN, NETKIT_E_EXISTS},
        {ENOENT, NETKIT_E_NOTFOUND},
        {ENOTDIR, NETKIT_E_NOTFOUND},
        {ENODEV, NETKIT_E_NOTFOUND},
        {ENXIO, NETKIT_E_NOTFOUND},
        {EINVAL, NETKIT_E_INVALID},
        {EBADF, NETKIT_E_INVALID},
        {EFAULT, NETKIT_E_INVALID},
        {ENOTSOCK, NETKIT_E_INVALID},
        {ELOOP, NETKIT_E_INVALID},
        {ENOSYS, NETKIT_E_NOSYS},
        {ENOTSUP, NETKIT_E_NOSYS},
        {EOPNOTSUPP, NETKIT_E_NOSYS},
        {EAFNOSUPPORT, NETKIT_E_NOSYS},
        {EPFNOSUPPORT, NETKIT_E_NOSYS},
        {EPROTONOSUPPORT, NETKIT_E_NOSYS},
        {ESOCKTNOSUPPORT, NETKIT_E_NOSYS},
        {EPROTOTYPE, NETKIT_E_NOSYS},
        {ENOPROTOOPT, NETKIT_E_NOSYS},
        {ESHUTDOWN, NETKIT_E_CLOSED},
        {ECANCELED, NETKIT_E_CANCELLED},
        {EBUSY, NETKIT_E_BUSY},
#ifdef ENONET
        {ENONET, NETKIT_E_UNREACHABLE},
#endif
#ifdef EDQUOT
        {EDQUOT, NETKIT_E_FULL},
#endif
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].os_code == os_code) {
            return rows[i].code;
        }
    }
    return os_code == 0 ? NETKIT_OK : NETKIT_E_IO;
}

/* The netkit code of the failure just seen. */
static NKI_OUTLINE int nki_os_error(void) {
    return netkit_error_from_os(errno);
}

static int nki_os_fail(int os_code) {
    errno = os_code;
    return netkit_error_from_os(os_code);
}

/* A socket as the system's descriptor: what cannot be one is -1, which is EBADF everywhere but in
 * poll, where it is nobody. Cutting the upper half off instead could hit a stranger's. */
static int nki_os_fd(uintptr_t s) {
    return s <= (uintptr_t)INT_MAX ? (int)s : -1;
}

static int nki_os_timed_out(void) {
    return nki_os_fail(ETIMEDOUT);
}

static void nki_os_abandon(uintptr_t s) {
    int os_code = errno;
    (void)NKI_SYS_close(nki_os_fd(s));
    errno = os_code;
}

static void nki_os_abandon_file(uintptr_t file) {
    nki_os_abandon(file);
}

/* CLOCK_MONOTONIC cannot fail where it exists, and it does on every system netkit runs on. 0
 * stands for a failure all the same, and who waits takes it for "time is up". */
static uint64_t nki_os_now_ns(void) {
    struct timespec now;
    if (NKI_SYS_clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
        return 0;
    }
    return (uint64_t)now.tv_sec * NKI_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Where there is no call for it, or a sandbox refuses the call. */
static int nki_os_random_device(void *out, size_t size) {
    int fd = NKI_SYS_open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return nki_os_error();
    }
    char *at = (char *)out;
    int rc = NETKIT_OK;
    while (size > 0 && rc == NETKIT_OK) {
        ssize_t got = NKI_SYS_read(fd, at, size);
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        } else if (got == 0) {
            rc = NETKIT_E_IO;
        } else if (errno != EINTR) {
            rc = nki_os_error();
        }
    }
    nki_os_abandon((uintptr_t)fd);
    return rc;
}

static int nki_os_random(void *out, size_t size) {
    char *at = (char *)out;
#if NKI_LINUX || NKI_BSD
    while (size > 0) {
        size_t want = NKI_MIN(size, 256u); /* up to here getrandom(2) is never cut short */
        long got = (long)NKI_SYS_getrandom(at, want);
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        } else if (got == 0 || errno != EINTR) {
            break;
        }
    }
#endif
    return size == 0 ? NETKIT_OK : nki_os_random_device(at, size);
}

/* Who is calling, for the check at the head of every call. On Linux the thread's own control
 * block is one instruction away and needs no function (x86-64 psABI: %fs:0 holds its address;
 * AArch64: TPIDR_EL0); elsewhere pthread_self tells. */
static NKI_HOT uintptr_t nki_os_thread_id(void) {
#if !NKI_HAS_THREADS
    return 1;
#elif NKI_LINUX && defined(__GNUC__) && defined(__x86_64__) && !defined(__ILP32__)
    uintptr_t id;
    __asm__("mov %%fs:0, %0" : "=r"(id));
    return id;
#elif NKI_LINUX && defined(__GNUC__) && defined(__aarch64__) && !defined(__ILP32__)
    uintptr_t id;
    __asm__("mrs %0, tpidr_el0" : "=r"(id));
    return id;
#else
    return (uintptr_t)pthread_self();
#endif
}

static uint32_t nki_os_interface(const char *name) {
    return NKI_SYS_if_nametoindex(name);
}

#endif /* NKI_POSIX */

/* ---- src/os/system_windows.c ---- */
/* The system on Windows: Winsock's beginning and end, codes of errors, clock, randomness, thread
 * identity, interfaces.
 *
 * Winsock counts how often it was begun, and the last end closes every socket there still is. So a
 * loop, whose sockets end with it, pairs the two, and a plain socket, which must outlive every
 * loop, begins it once more and for good.
 * The code of an error is the thread's own, one for Winsock and the rest of the system
 * (WSAGetLastError is GetLastError), whose numbers do not overlap. No state is kept here. */

#if NKI_WINDOWS

typedef struct nki_os_row {
    int os_code;
    int code;
} nki_os_row;

static int nki_os_begin(void) {
    WSADATA data;
    int os_code = NKI_SYS_startup(MAKEWORD(2, 2), &data);
    if (os_code != 0) {
        return nki_os_fail(os_code);
    }
    if (data.wVersion != MAKEWORD(2, 2)) {
        nki_os_end();
        return nki_os_fail(WSAVERNOTSUPPORTED);
    }
    return NETKIT_OK;
}

static void nki_os_end(void) {
    int os_code = nki_os_code();
    (void)NKI_SYS_cleanup();
    WSASetLastError(os_code);
}

static int nki_os_code(void) {
    return WSAGetLastError();
}

/* The row's code, or 0. */
static int nki_os_find(const nki_os_row *rows, size_t count, int os_code) {
    for (size_t i = 0; i < count; i++) {
        if (rows[i].os_code == os_code) {
            return rows[i].code;
        }
    }
    return 0;
}

/* Of Winsock; the first is the only one that steady traffic meets. */
static int nki_os_from_winsock(int os_code) {
    static const nki_os_row rows[] = {
        {WSAEWOULDBLOCK, NETKIT_E_AGAIN},
        {WSAEINPROGRESS, NETKIT_E_AGAIN},
        {WSAEALREADY, NETKIT_E_AGAIN},
        {WSA_IO_PENDING, NETKIT_E_AGAIN},
        {WSAECONNRESET, NETKIT_E_RESET},
        {WSAENETRESET, NETKIT_E_RESET},
        {WSAEDISCON, NETKIT_E_RESET},
        {WSAECONNREFUSED, NETKIT_E_REFUSED},
        {WSAETIMEDOUT, NETKIT_E_TIMEOUT},
        {WSAECONNABORTED, NETKIT_E_ABORTED},
        {WSAENOTCONN, NETKIT_E_NOTCONN},
        {WSAEDESTADDRREQ, NETKIT_E_NOTCONN},
        {WSAEINTR, NETKIT_E_INTERRUPTED},
        {WSAENETUNREACH, NETKIT_E_UNREACHABLE},
        {WSAEHOSTUNREACH, NETKIT_E_UNREACHABLE},
        {WSAENETDOWN, NETKIT_E_UNREACHABLE},
        {WSAEHOSTDOWN, NETKIT_E_UNREACHABLE},
        {WSAEADDRINUSE, NETKIT_E_ADDRINUSE},
        {WSAEADDRNOTAVAIL, NETKIT_E_ADDRNOTAVAIL},
        {WSAEMFILE, NETKIT_E_MFILE},
        {WSAEPROCLIM, NETKIT_E_MFILE},
        {WSAETOOMANYREFS, NETKIT_E_MFILE},
        {WSAENOBUFS, NETKIT_E_NOMEM},
        {WSAEDQUOT, NETKIT_E_FULL},
        {WSAEMSGSIZE, NETKIT_E_TOOBIG},
        {WSAENAMETOOLONG, NETKIT_E_TOOBIG},
        {WSAEACCES, NETKIT_E_ACCESS},
        {WSAEISCONN, NETKIT_E_EXISTS},
        {WSAEINVAL, NETKIT_E_INVALID},
        {WSAEBADF, NETKIT_E_INVALID},
        {WSAEFAULT, NETKIT_E_INVALID},
        {WSAENOTSOCK, NETKIT_E_INVALID},
        {WSAELOOP, NETKIT_E_INVALID},
        {WSAEOPNOTSUPP, NETKIT_E_NOSYS},
        {WSAEAFNOSUPPORT, NETKIT_E_NOSYS},
        {WSAEPFNOSUPPORT, NETKIT_E_NOSYS},
        {WSAEPROTONOSUPPORT, NETKIT_E_NOSYS},
        {WSAESOCKTNOSUPPORT, NETKIT_E_NOSYS},
        {WSAEPROTOTYPE, NETKIT_E_NOSYS},
        {WSAENOPROTOOPT, NETKIT_E_NOSYS},
        {WSAVERNOTSUPPORTED, NETKIT_E_NOSYS},
        {WSASYSNOTREADY, NETKIT_E_NOSYS},
        {WSAESHUTDOWN, NETKIT_E_CLOSED},
        {WSAECANCELLED, NETKIT_E_CANCELLED},
        {WSA_E_CANCELLED, NETKIT_E_CANCELLED},
        {WSA_OPERATION_ABORTED, NETKIT_E_CANCELLED},
    };
    return nki_os_find(rows, NKI_COUNT(rows), os_code);
}

/* Of files and handles, and what overlapped calls give for Winsock's. */
static int nki_os_from_system(int os_code) {
    static const nki_os_row rows[] = {
        {ERROR_NETNAME_DELETED, NETKIT_E_RESET},
        {ERROR_CONNECTION_REFUSED, NETKIT_E_REFUSED},
        {ERROR_PORT_UNREACHABLE, NETKIT_E_REFUSED},
        {ERROR_SEM_TIMEOUT, NETKIT_E_TIMEOUT},
        {ERROR_CONNECTION_ABORTED, NETKIT_E_ABORTED},
        {ERROR_NETWORK_UNREACHABLE, NETKIT_E_UNREACHABLE},
        {ERROR_HOST_UNREACHABLE, NETKIT_E_UNREACHABLE},
        {ERROR_TOO_MANY_OPEN_FILES, NETKIT_E_MFILE},
        {ERROR_NO_SYSTEM_RESOURCES, NETKIT_E_NOMEM},
        {ERROR_NOT_ENOUGH_MEMORY, NETKIT_E_NOMEM},
        {ERROR_OUTOFMEMORY, NETKIT_E_NOMEM},
        {ERROR_COMMITMENT_LIMIT, NETKIT_E_NOMEM},
        {ERROR_DISK_FULL, NETKIT_E_FULL},
        {ERROR_MORE_DATA, NETKIT_E_TOOBIG},
        {ERROR_FILENAME_EXCED_RANGE, NETKIT_E_TOOBIG},
        {ERROR_ACCESS_DENIED, NETKIT_E_ACCESS},
        {ERROR_SHARING_VIOLATION, NETKIT_E_ACCESS},
        {ERROR_WRITE_PROTECT, NETKIT_E_ACCESS},
        {ERROR_FILE_EXISTS, NETKIT_E_EXISTS},
        {ERROR_ALREADY_EXISTS, NETKIT_E_EXISTS},
        {ERROR_FILE_NOT_FOUND, NETKIT_E_NOTFOUND},
        {ERROR_PATH_NOT_FOUND, NETKIT_E_NOTFOUND},
        {ERROR_NOT_FOUND, NETKIT_E_NOTFOUND},
        {ERROR_INVALID_HANDLE, NETKIT_E_INVALID},
        {ERROR_INVALID_PARAMETER, NETKIT_E_INVALID},
        {ERROR_NOACCESS, NETKIT_E_INVALID},
        {ERROR_INVALID_FUNCTION, NETKIT_E_NOSYS},
        {ERROR_NOT_SUPPORTED, NETKIT_E_NOSYS},
        {ERROR_CALL_NOT_IMPLEMENTED, NETKIT_E_NOSYS},
        {ERROR_PROC_NOT_FOUND, NETKIT_E_NOSYS},
        {ERROR_BUSY, NETKIT_E_BUSY},
    };
    return nki_os_find(rows, NKI_COUNT(rows), os_code);
}

NETKIT_API int netkit_error_from_os(int os_code) {
    if (os_code == 0) {
        return NETKIT_OK;
    }
    int code = nki_os_from_winsock(os_code);
    code = code != 0 ? code : nki_os_from_system(os_code);
    return code != 0 ? code : (int)NETKIT_E_IO;
}

/* The netkit code of the failure just seen. */
static NKI_OUTLINE int nki_os_error(void) {
    return netkit_error_from_os(nki_os_code());
}

static int nki_os_fail(int os_code) {
    WSASetLastError(os_code);
    return netkit_error_from_os(os_code);
}

static SOCKET nki_os_fd(uintptr_t s) {
    return (SOCKET)s;
}

/* A file, or any other thing that is no socket. */
static HANDLE nki_os_handle(uintptr_t native) {
    HANDLE handle;
    memcpy(&handle, &native, sizeof handle);
    return handle;
}

static int nki_os_timed_out(void) {
    return nki_os_fail(WSAETIMEDOUT);
}

static void nki_os_abandon(uintptr_t s) {
    int os_code = nki_os_code();
    (void)NKI_SYS_close(nki_os_fd(s));
    WSASetLastError(os_code);
}

static void nki_os_abandon_file(uintptr_t file) {
    int os_code = nki_os_code();
    (void)NKI_SYS_close_handle(nki_os_handle(file));
    WSASetLastError(os_code);
}

/* Neither call fails since Windows XP. 0 stands for a failure all the same. In two steps, as the
 * counter times a thousand million is more than 64 bits hold. */
static uint64_t nki_os_now_ns(void) {
    LARGE_INTEGER count;
    LARGE_INTEGER rate;
    if (!NKI_SYS_clock(&count) || !NKI_SYS_clock_rate(&rate)) {
        return 0;
    }
    uint64_t ticks = (uint64_t)count.QuadPart;
    uint64_t per_second = (uint64_t)rate.QuadPart;
    return ticks / per_second * NKI_NS_PER_S + ticks % per_second * NKI_NS_PER_S / per_second;
}

static int nki_os_random(void *out, size_t size) {
    unsigned char *at = (unsigned char *)out;
    while (size > 0) {
        ULONG want = (ULONG)NKI_MIN(size, (size_t)INT_MAX);
        if (!NKI_SYS_getrandom(at, want)) {
            return nki_os_error() == NETKIT_OK ? (int)NETKIT_E_IO : nki_os_error();
        }
        at += want;
        size -= want;
    }
    return NETKIT_OK;
}

static NKI_HOT uintptr_t nki_os_thread_id(void) {
#if NKI_HAS_THREADS
    return (uintptr_t)NKI_SYS_thread_id();
#else
    return 1;
#endif
}

/* Names ("ethernet_32769", "loopback_0") are known to another library, which is looked up here so
 * that programs need not link it. */
static uint32_t nki_os_interface(const char *name) {
    typedef ULONG(WINAPI * nki_by_name)(const char *name);
    nki_by_name call;
    uint32_t index = 0;
    HMODULE library = NKI_SYS_library(L"iphlpapi.dll");
    if (library == NULL) {
        return 0;
    }
    FARPROC symbol = NKI_SYS_symbol(library, "if_nametoindex");
    if (symbol != NULL) {
        memcpy(&call, &symbol, sizeof call);
        index = (uint32_t)NKI_SYS_if_nametoindex(call, name);
    }
    (void)NKI_SYS_free_library(library);
    return index;
}

#endif /* NKI_WINDOWS */

/* ---- src/os/wake_posix.c ---- */
/* The descriptor that wakes a waiting thread: an eventfd, or where there is none a pipe. And what
 * new descriptors may need after birth: their flags, and no SIGPIPE.
 *
 * The wake must work from a signal handler (write(2) is on the list of signal-safety(7)), so one
 * that succeeds leaves errno as it found it; it never blocks, and one that is full is signalled
 * already (Q-06). */

#if NKI_POSIX

#if defined(SO_NOSIGPIPE)
/* On accepted sockets too: it is not inherited. */
static int nki_os_no_sigpipe(int fd) {
    int on = 1;
    if (NKI_SYS_setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, (socklen_t)sizeof(on)) != 0) {
        return nki_os_error();
    }
    return NETKIT_OK;
}
#else
static int nki_os_no_sigpipe(int fd) {
    NKI_UNUSED(fd);
    return NETKIT_OK;
}
#endif

#if !NKI_HAS_EVENTFD || !NKI_HAS_SOCK_FLAGS
static int nki_os_set_fd_flags(int fd, bool is_blocking) {
    int flags = NKI_SYS_fcntl(fd, F_GETFL, 0);
    if (flags < 0) {
        return nki_os_error();
    }
    int wanted = is_blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
    if (wanted != flags && NKI_SYS_fcntl(fd, F_SETFL, wanted) != 0) {
        return nki_os_error();
    }
    return NKI_SYS_fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 ? nki_os_error() : NETKIT_OK;
}
#endif

#if NKI_HAS_EVENTFD
static int nki_os_wake_open(nki_wake *out) {
    int fd = NKI_SYS_eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    out->reader = out->writer = fd < 0 ? UINTPTR_MAX : (uintptr_t)fd;
    return fd < 0 ? nki_os_error() : NETKIT_OK;
}
#else
static int nki_os_wake_open(nki_wake *out) {
    int fds[2];
    out->reader = out->writer = UINTPTR_MAX;
    if (NKI_SYS_pipe(fds) != 0) {
        return nki_os_error();
    }
    int rc = nki_os_set_fd_flags(fds[0], false);
    if (rc == NETKIT_OK) {
        rc = nki_os_set_fd_flags(fds[1], false);
    }
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fds[0]);
        nki_os_abandon((uintptr_t)fds[1]);
        return rc;
    }
    out->reader = (uintptr_t)fds[0];
    out->writer = (uintptr_t)fds[1];
    return NETKIT_OK;
}
#endif

static void nki_os_wake_close(nki_wake *wake) {
    if (wake->reader != UINTPTR_MAX) {
        (void)NKI_SYS_close(nki_os_fd(wake->reader));
    }
    if (wake->writer != wake->reader && wake->writer != UINTPTR_MAX) {
        (void)NKI_SYS_close(nki_os_fd(wake->writer));
    }
    wake->reader = wake->writer = UINTPTR_MAX;
}

static int nki_os_wake_signal(const nki_wake *wake) {
    static const uint64_t one = 1;
    int os_code = errno;
    /* An eventfd takes eight bytes; to a pipe one is enough. */
    size_t size = wake->reader == wake->writer ? sizeof(one) : 1;
    while (NKI_SYS_write(nki_os_fd(wake->writer), &one, size) < 0) {
        if (errno == EAGAIN) {
            break;
        }
        if (errno != EINTR) {
            return nki_os_error();
        }
    }
    errno = os_code;
    return NETKIT_OK;
}

/* One read empties an eventfd. A pipe is read until it is empty, which is soon: wakes are
 * coalesced above, and 64 KiB is all a pipe holds. */
static void nki_os_wake_drain(const nki_wake *wake) {
    uint64_t junk[32];
    bool is_pipe = wake->reader != wake->writer;
    for (int i = 0; i < 1024; i++) {
        size_t size = is_pipe ? sizeof(junk) : sizeof(junk[0]);
        ssize_t got = NKI_SYS_read(nki_os_fd(wake->reader), junk, size);
        bool was_all = got >= 0 && (size_t)got < sizeof(junk);
        if (was_all || (got < 0 && errno != EINTR)) {
            return;
        }
    }
}

#endif /* NKI_POSIX */

/* ---- src/os/birth_flags.c ---- */
/* How descriptors are born, where the system takes their flags with the call that makes them
 * (Linux, the BSDs): close-on-exec and non-blocking from the first moment. birth_fcntl.c is the
 * same for systems that do not. */

#if NKI_HAS_SOCK_FLAGS

/* The system's type of socket, with its flags. */
static int nki_os_type(int type, bool is_blocking) {
    int os_type = type == NETKIT_SOCK_DGRAM ? SOCK_DGRAM : SOCK_STREAM;
    return os_type | SOCK_CLOEXEC | (is_blocking ? 0 : SOCK_NONBLOCK);
}

static int nki_os_finish_socket(int fd, bool is_blocking) {
    NKI_UNUSED(is_blocking);
    return nki_os_no_sigpipe(fd);
}

#endif /* NKI_HAS_SOCK_FLAGS */

/* ---- src/os/birth_fcntl.c ---- */
/* How descriptors are born, where the call that makes them takes no flags (macOS): they are set
 * afterwards. A descriptor leaks into a program started by another thread between the two calls;
 * there is no way around it there. */

#if NKI_POSIX && !NKI_HAS_SOCK_FLAGS

static int nki_os_type(int type, bool is_blocking) {
    NKI_UNUSED(is_blocking);
    return type == NETKIT_SOCK_DGRAM ? SOCK_DGRAM : SOCK_STREAM;
}

static int nki_os_finish_socket(int fd, bool is_blocking) {
    int rc = nki_os_set_fd_flags(fd, is_blocking);
    return rc == NETKIT_OK ? nki_os_no_sigpipe(fd) : rc;
}

#endif

/* ---- src/os/socket_posix.c ---- */
/* Sockets on POSIX: one thin function for each thing the library does with a socket.
 *
 * Owns: which calls are repeated after a signal, and what each failure means.
 * - recv, send, accept: repeated, nothing has happened yet.
 * - connect: repeated, and so it makes no difference whether it had begun. It goes on without us
 *   on IP (POSIX connect: "the connection shall be established asynchronously"), then the second
 *   call says EALREADY or EISCONN; on a unix path a signal only ends the wait for room.
 * - close: never repeated; the descriptor is gone (Linux close(2)), and the number may already
 *   be another thread's.
 * Every socket is close-on-exec and raises no SIGPIPE: by MSG_NOSIGNAL with each send, and where
 * SO_NOSIGPIPE exists by that as well (birth_*.c).
 * Linux says of accept(2): errors of the network waiting on the new connection come out of
 * accept itself and mean "this one is gone, take the next", never "the listener is broken". */

#if NKI_POSIX

#if defined(MSG_NOSIGNAL)
#define NKI_MSG_NOSIGNAL MSG_NOSIGNAL
#else
#define NKI_MSG_NOSIGNAL 0
#endif
/* More follows at once: not to be sent in a segment of its own. */
#if defined(MSG_MORE)
#define NKI_MSG_MORE MSG_MORE
#else
#define NKI_MSG_MORE 0
#endif

#if defined(POLLRDHUP)
#define NKI_POLLRDHUP POLLRDHUP
#else
#define NKI_POLLRDHUP 0
#endif

/* A poll that need not wait is interrupted too: how often to insist on looking. */
enum {
    NKI_LAST_LOOKS = 16
};

static int nki_os_socket(int family, int type, bool is_blocking, uintptr_t *out) {
    int domain = nki_os_domain(family);
    *out = UINTPTR_MAX;
    if (domain < 0 || (type != NETKIT_SOCK_STREAM && type != NETKIT_SOCK_DGRAM)) {
        return NETKIT_E_INVALID;
    }
    int fd = NKI_SYS_socket(domain, nki_os_type(type, is_blocking), 0);
    if (fd < 0) {
        return nki_os_error();
    }
    int rc = nki_os_finish_socket(fd, is_blocking);
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fd);
        return rc;
    }
    *out = (uintptr_t)fd;
    return NETKIT_OK;
}

static int nki_os_pair(int type, bool is_blocking, uintptr_t out[2]) {
    int fds[2];
    out[0] = out[1] = UINTPTR_MAX;
    if (type != NETKIT_SOCK_STREAM && type != NETKIT_SOCK_DGRAM) {
        return NETKIT_E_INVALID;
    }
    if (NKI_SYS_socketpair(AF_UNIX, nki_os_type(type, is_blocking), 0, fds) != 0) {
        return nki_os_error();
    }
    int rc = nki_os_finish_socket(fds[0], is_blocking);
    if (rc == NETKIT_OK) {
        rc = nki_os_finish_socket(fds[1], is_blocking);
    }
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fds[0]);
        nki_os_abandon((uintptr_t)fds[1]);
        return rc;
    }
    out[0] = (uintptr_t)fds[0];
    out[1] = (uintptr_t)fds[1];
    return NETKIT_OK;
}

static int nki_os_plain_socket(int family, int type, bool is_blocking, uintptr_t *out) {
    return nki_os_socket(family, type, is_blocking, out);
}

static int nki_os_plain_pair(int type, bool is_blocking, uintptr_t out[2]) {
    return nki_os_pair(type, is_blocking, out);
}

static bool nki_os_is_datagram(uintptr_t s) {
    int type = 0;
    socklen_t len = (socklen_t)sizeof(type);
    return NKI_SYS_getsockopt(nki_os_fd(s), SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
           type == SOCK_DGRAM;
}

static int nki_os_set_int(int fd, int level, int name, int value) {
    return NKI_SYS_setsockopt(fd, level, name, &value, (socklen_t)sizeof(value)) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

/* Several sockets share a port only where the kernel spreads connections over them: elsewhere
 * SO_REUSEPORT hands all to the last one, or lets a stranger steal them. */
static int nki_os_share_port(int fd) {
#if NKI_LINUX && defined(SO_REUSEPORT)
    return nki_os_set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
#elif defined(SO_REUSEPORT_LB)
    return nki_os_set_int(fd, SOL_SOCKET, SO_REUSEPORT_LB, 1);
#else
    NKI_UNUSED(fd);
    return NETKIT_E_NOSYS;
#endif
}

/* Set either way, since the default is the administrator's (net.ipv6.bindv6only). OpenBSD refuses
 * to clear it, which matters to a wildcard alone. */
static int nki_os_bind_v6only(int fd, const netkit_addr *addr, bool is_v6only) {
    static const uint8_t wildcard[16] = {0};
    int rc = nki_os_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, is_v6only ? 1 : 0);
    bool matters = is_v6only || memcmp(addr->ip, wildcard, sizeof(wildcard)) == 0;
    return matters ? rc : NETKIT_OK;
}

/* SO_REUSEADDR lets a server restart over its own connections in TIME_WAIT. For datagrams it would
 * let two programs share a port, the second stealing from the first: never there. */
static int nki_os_bind_options(int fd, const netkit_addr *addr, int flags) {
    int rc = NETKIT_OK;
    if (!nki_os_is_datagram((uintptr_t)fd)) {
        bool is_reuse = (flags & NETKIT_SOCKET_NO_REUSE) == 0;
        rc = nki_os_set_int(fd, SOL_SOCKET, SO_REUSEADDR, is_reuse ? 1 : 0);
    }
    if (rc == NETKIT_OK && (flags & NETKIT_SOCKET_REUSE_PORT) != 0) {
        rc = nki_os_share_port(fd);
    }
    if (rc == NETKIT_OK && addr->family == NETKIT_AF_IPV6) {
        rc = nki_os_bind_v6only(fd, addr, (flags & NETKIT_SOCKET_V6ONLY) != 0);
    }
    return rc;
}

/* As nki_sockaddr_from, and the address without a path by which Linux chooses a name: the family
 * alone (unix(7), autobind). */
static int nki_os_bind_address(struct sockaddr_storage *sa, socklen_t *len,
                               const netkit_addr *addr) {
    if (NKI_LINUX && addr->family == NETKIT_AF_UNIX && !addr->is_abstract && addr->path_len == 0) {
        memset(sa, 0, sizeof *sa);
        sa->ss_family = AF_UNIX;
        *len = (socklen_t)sizeof(sa->ss_family);
        return NETKIT_OK;
    }
    return nki_sockaddr_from(sa, len, addr);
}

/* A path that exists stays, unless it is asked for: removing it could cut off a server that is
 * alive. */
static int nki_os_bind(uintptr_t s, const netkit_addr *addr, int flags) {
    const int known = NETKIT_SOCKET_REUSE_PORT | NETKIT_SOCKET_V6ONLY | NETKIT_SOCKET_NO_REUSE |
                      NETKIT_SOCKET_REPLACE;
    struct sockaddr_storage sa;
    socklen_t len;
    netkit_unix_file file;
    if ((flags & ~known) != 0) {
        return NETKIT_E_INVALID;
    }
    if (addr->family == NETKIT_AF_UNIX && (flags & NETKIT_SOCKET_REPLACE) != 0) {
        return nki_os_bind_unix(s, addr, flags, 0, &file);
    }
    int rc = nki_os_bind_address(&sa, &len, addr);
    if (rc == NETKIT_OK && addr->family != NETKIT_AF_UNIX) {
        rc = nki_os_bind_options(nki_os_fd(s), addr, flags);
    } else if (rc == NETKIT_OK && (flags & NETKIT_SOCKET_REUSE_PORT) != 0) {
        rc = NETKIT_E_NOSYS; /* Linux before 6.12 would say yes and mean nothing by it */
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    const struct sockaddr *at = (const struct sockaddr *)(const void *)&sa;
    return NKI_SYS_bind(nki_os_fd(s), at, len) != 0 ? nki_os_error() : NETKIT_OK;
}

/* The kernel cuts a backlog to its own limit (net.core.somaxconn, kern.ipc.somaxconn), which
 * SOMAXCONN was the value of when libc was built, at best. */
static int nki_os_listen(uintptr_t s, int backlog) {
    if (backlog < 0) {
        return NETKIT_E_INVALID;
    }
    int most = backlog == 0 ? INT_MAX : backlog;
    return NKI_SYS_listen(nki_os_fd(s), most) != 0 ? nki_os_error() : NETKIT_OK;
}

static NKI_COLD int nki_os_accept_error(uintptr_t s) {
    int os_code = errno;
    switch (os_code) {
    case ECONNABORTED:
    case EPROTO:
    case ENOPROTOOPT:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ETIMEDOUT:
#ifdef ENONET
    case ENONET:
#endif
    case EPERM: /* a rule of the firewall forbids this one */ return NETKIT_E_ABORTED;
    case EOPNOTSUPP: {
        /* Of a stream an error of the network; else accept itself is what is not supported, and
         * taking the next one would fail for ever. */
        bool is_hopeless = nki_os_is_datagram(s);
        errno = os_code;
        return is_hopeless ? NETKIT_E_NOSYS : NETKIT_E_ABORTED;
    }
    default: return netkit_error_from_os(os_code);
    }
}

static int nki_os_accept(uintptr_t s, uintptr_t *out, netkit_addr *peer) {
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)sizeof(sa);
    struct sockaddr *at = peer != NULL ? (struct sockaddr *)(void *)&sa : NULL;
    int fd;
    *out = UINTPTR_MAX;
    if (peer != NULL) {
        memset(peer, 0, sizeof(*peer));
        memset(&sa, 0, sizeof(sa)); /* macOS may write nothing for one that is gone already */
    }
    do {
        fd = NKI_SYS_accept(nki_os_fd(s), at, at != NULL ? &len : NULL);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return errno == EAGAIN ? NETKIT_E_AGAIN : nki_os_accept_error(s);
    }
    int rc = nki_os_finish_socket(fd, false);
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fd);
        /* macOS refuses options of a connection that has been reset already. */
        return errno == EINVAL ? (int)NETKIT_E_ABORTED : rc;
    }
    if (peer != NULL) {
        nki_sockaddr_to(peer, &sa, len);
    }
    *out = (uintptr_t)fd;
    return NETKIT_OK;
}

static int nki_os_name(int fd, bool is_peer, netkit_addr *out) {
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)sizeof(sa);
    struct sockaddr *at = (struct sockaddr *)(void *)&sa;
    memset(out, 0, sizeof(*out));
    memset(&sa, 0, sizeof(sa));
    int rc = is_peer ? NKI_SYS_getpeername(fd, at, &len) : NKI_SYS_getsockname(fd, at, &len);
    if (rc != 0) {
        return nki_os_error();
    }
    nki_sockaddr_to(out, &sa, len);
    return NETKIT_OK;
}

static int nki_os_local(uintptr_t s, netkit_addr *out) {
    return nki_os_name(nki_os_fd(s), false, out);
}

/* macOS has no name for the peer of a connection that was reset: EINVAL. */
static int nki_os_peer(int fd, netkit_addr *out) {
    int rc = nki_os_name(fd, true, out);
    return rc != NETKIT_OK && errno == EINVAL ? (int)NETKIT_E_RESET : rc;
}

static int nki_os_remote(uintptr_t s, netkit_addr *out) {
    return nki_os_peer(nki_os_fd(s), out);
}

/* A TCP socket that dials a port of the ephemeral range nobody listens on may be given that very
 * port as its own, meet its own SYN and connect to itself (RFC 9293, 3.5: simultaneous open). It
 * would then hold the port against the server it waits for: that is a refusal (C-07). */
static int nki_os_check_peer(int fd) {
    netkit_addr peer;
    netkit_addr self;
    int rc = nki_os_peer(fd, &peer);
    if (rc != NETKIT_OK || (peer.family != NETKIT_AF_IPV4 && peer.family != NETKIT_AF_IPV6)) {
        return rc;
    }
    rc = nki_os_name(fd, false, &self);
    if (rc != NETKIT_OK) {
        return rc;
    }
    bool is_same = self.port == peer.port && self.family == peer.family &&
                   memcmp(self.ip, peer.ip, sizeof(self.ip)) == 0;
    if (is_same && !nki_os_is_datagram((uintptr_t)fd)) {
        errno = ECONNREFUSED;
        return NETKIT_E_REFUSED;
    }
    return NETKIT_OK;
}

/* With Fast Open connect only notes where to, and has no peer before the first send. */
static bool nki_os_is_deferred(int fd) {
#if defined(TCP_FASTOPEN_CONNECT)
    int os_code = errno;
    int is_on = 0;
    socklen_t len = (socklen_t)sizeof is_on;
    int rc = NKI_SYS_getsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &is_on, &len);
    errno = os_code;
    return rc == 0 && is_on != 0;
#else
    NKI_UNUSED(fd);
    return false;
#endif
}

static int nki_os_connect(uintptr_t s, const netkit_addr *addr) {
    struct sockaddr_storage sa;
    socklen_t len;
    int fd = nki_os_fd(s);
    bool was_interrupted = false;
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc != NETKIT_OK) {
        return rc;
    }
    while (NKI_SYS_connect(fd, (const struct sockaddr *)(const void *)&sa, len) != 0) {
        if (errno == EISCONN && was_interrupted) {
            break;
        }
        if (errno == EAGAIN) {
            /* IP: no port is left to dial from (Linux connect(2)). Unix: the backlog is full, and
             * no descriptor tells when there will be room. */
            return addr->family == NETKIT_AF_UNIX ? NETKIT_E_FULL : NETKIT_E_ADDRNOTAVAIL;
        }
        if (errno != EINTR) {
            return nki_os_error(); /* EINPROGRESS and, repeated, EALREADY are NETKIT_E_AGAIN */
        }
        was_interrupted = true;
    }
    rc = nki_os_check_peer(fd);
    return rc == NETKIT_E_NOTCONN && nki_os_is_deferred(fd) ? (int)NETKIT_OK : rc;
}

static int nki_os_pending_error(int fd, int *error) {
    socklen_t len = (socklen_t)sizeof(*error);
    *error = 0;
    return NKI_SYS_getsockopt(fd, SOL_SOCKET, SO_ERROR, error, &len) != 0 ? nki_os_error()
                                                                          : NETKIT_OK;
}

static int nki_os_connect_check(int fd) {
    int error;
    int rc = nki_os_pending_error(fd, &error);
    if (rc == NETKIT_OK && error != 0) {
        errno = error;
        rc = netkit_error_from_os(error);
    }
    return rc == NETKIT_OK ? nki_os_check_peer(fd) : rc;
}

/* What recv said, when it gave no bytes. */
static int nki_os_recv_result(ssize_t got, size_t len) {
    if (got >= 0) {
        return got == 0 && len != 0 ? (int)NETKIT_E_EOF : (int)got;
    }
    return errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
}

static int nki_os_recv_flags(uintptr_t s, void *data, size_t len, int flags) {
    size_t most = NKI_MIN(len, (size_t)INT_MAX);
    ssize_t got;
    do {
        got = NKI_SYS_recv(nki_os_fd(s), data, most, flags);
    } while (NKI_UNLIKELY(got < 0) && errno == EINTR);
    return nki_os_recv_result(got, len);
}

static NKI_COLD int nki_os_recv_odd(uintptr_t s, void *data, size_t len, ssize_t got) {
    return got < 0 && errno == EINTR ? nki_os_recv_flags(s, data, len, 0)
                                     : nki_os_recv_result(got, len);
}

/* Once for every message, so without detour: len is at most INT_MAX, and the socket is one that
 * the system has given. */
static NKI_HOT int nki_os_recv(uintptr_t s, void *data, size_t len) {
    ssize_t got = NKI_SYS_recv((int)s, data, len, 0);
    return NKI_LIKELY(got > 0) ? (int)got : nki_os_recv_odd(s, data, len, got);
}

static int nki_os_recv_now(uintptr_t s, void *data, size_t len) {
    return nki_os_recv_flags(s, data, len, MSG_DONTWAIT);
}

/* macOS says EPROTOTYPE of a connection that is being torn down at this moment. */
static NKI_COLD int nki_os_send_error(void) {
    if (errno == EPROTOTYPE) {
        return NETKIT_E_RESET;
    }
    return errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
}

static int nki_os_send_flags(uintptr_t s, const void *data, size_t len, int flags) {
    size_t most = NKI_MIN(len, (size_t)INT_MAX);
    ssize_t sent;
    do {
        sent = NKI_SYS_send(nki_os_fd(s), data, most, flags | NKI_MSG_NOSIGNAL);
    } while (NKI_UNLIKELY(sent < 0) && errno == EINTR);
    return NKI_LIKELY(sent >= 0) ? (int)sent : nki_os_send_error();
}

static NKI_COLD int nki_os_send_odd(uintptr_t s, const void *data, size_t len) {
    return errno == EINTR ? nki_os_send_flags(s, data, len, 0) : nki_os_send_error();
}

/* The same for sending. */
static NKI_HOT int nki_os_send(uintptr_t s, const void *data, size_t len) {
    ssize_t sent = NKI_SYS_send((int)s, data, len, NKI_MSG_NOSIGNAL);
    return NKI_LIKELY(sent >= 0) ? (int)sent : nki_os_send_odd(s, data, len);
}

static int nki_os_send_now(uintptr_t s, const void *data, size_t len) {
    return nki_os_send_flags(s, data, len, MSG_DONTWAIT);
}

static short nki_os_poll_from(uint32_t events) {
    int bits = (events & NETKIT_POLL_READ) != 0 ? POLLIN | NKI_POLLRDHUP : 0;
    bits |= (events & NETKIT_POLL_PRIORITY) != 0 ? POLLPRI : 0;
    bits |= (events & NETKIT_POLL_WRITE) != 0 ? POLLOUT : 0;
    bits |= (events & NETKIT_POLL_PEER_END) != 0 ? NKI_POLLRDHUP : 0;
    return (short)bits;
}

/* POLLNVAL, "no descriptor", is for the caller to see. */
static uint32_t nki_os_poll_to(short bits) {
    uint32_t events = (bits & POLLIN) != 0 ? (uint32_t)NETKIT_POLL_READ : 0u;
    events |= (bits & POLLPRI) != 0 ? (uint32_t)NETKIT_POLL_PRIORITY : 0u;
    events |= (bits & POLLOUT) != 0 ? (uint32_t)NETKIT_POLL_WRITE : 0u;
    events |= (bits & POLLERR) != 0 ? (uint32_t)NETKIT_POLL_ERROR : 0u;
    events |= (bits & POLLHUP) != 0 ? (uint32_t)NETKIT_POLL_HANGUP : 0u;
    events |= (bits & NKI_POLLRDHUP) != 0 ? (uint32_t)NETKIT_POLL_PEER_END : 0u;
    return events;
}

static int nki_os_wait(uintptr_t s, uint32_t events, uint64_t deadline_ns) {
    struct pollfd one;
    int last_looks = 0;
    one.fd = nki_os_fd(s);
    one.events = nki_os_poll_from(events);
    if (one.fd < 0) {
        return NETKIT_E_INVALID; /* poll would take it for nobody and wait */
    }
    for (;;) {
        uint64_t left = NKI_NEVER;
        if (deadline_ns != NKI_NEVER) {
            uint64_t now = nki_os_now_ns();
            left = now != 0 && now < deadline_ns ? deadline_ns - now : 0;
        }
        int ms = nki_os_poll_ms(left);
        one.revents = 0;
        int ready = NKI_SYS_poll(&one, 1, ms);
        if (ready > 0) {
            bool is_bad = (one.revents & POLLNVAL) != 0;
            return is_bad ? (int)NETKIT_E_INVALID : (int)nki_os_poll_to(one.revents);
        }
        if (ready < 0 && errno != EINTR) {
            return nki_os_error();
        }
        bool is_over = ready == 0 && ms < INT_MAX; /* else it was cut, and there is more */
        if (is_over || (left == 0 && ++last_looks == NKI_LAST_LOOKS)) {
            return nki_os_timed_out();
        }
    }
}

/* Without an error and without a peer a socket is on its way, or was never sent, or its error has
 * been read before. Only one that is on its way is not writable. */
static int nki_os_connect_result(uintptr_t s) {
    int fd = nki_os_fd(s);
    int rc = nki_os_connect_check(fd);
    if (rc != NETKIT_E_NOTCONN) {
        return rc;
    }
    rc = nki_os_wait(s, NETKIT_POLL_WRITE, 0);
    if (rc < 0) {
        return rc == NETKIT_E_TIMEOUT ? (int)NETKIT_E_AGAIN : rc;
    }
    return nki_os_connect_check(fd);
}

/* Waking without a result (a stray event) goes round again, against the same deadline. */
static int nki_os_await_connect(uintptr_t s, uint64_t deadline_ns) {
    for (;;) {
        int rc = nki_os_wait(s, NETKIT_POLL_WRITE, deadline_ns);
        if (rc >= 0) {
            rc = nki_os_connect_result(s);
        }
        if (rc != NETKIT_E_AGAIN) {
            return rc;
        }
    }
}

static int nki_os_unblock(uintptr_t s, bool *was_blocking) {
    int is_blocking = 0;
    int rc = nki_os_get_option(s, NETKIT_OPT_BLOCKING, &is_blocking);
    if (rc == NETKIT_OK && is_blocking != 0) {
        rc = nki_os_set_option(s, NETKIT_OPT_BLOCKING, 0);
    }
    *was_blocking = rc == NETKIT_OK && is_blocking != 0;
    return rc;
}

static int nki_os_reblock(uintptr_t s, bool was_blocking) {
    return was_blocking ? nki_os_set_option(s, NETKIT_OPT_BLOCKING, 1) : NETKIT_OK;
}

/* A blocking socket cannot be made to connect within a time, so it is non-blocking meanwhile. */
static int nki_os_connect_within(uintptr_t s, const netkit_addr *addr, int timeout_ms) {
    bool was_blocking = false;
    int rc = timeout_ms >= 0 ? nki_os_unblock(s, &was_blocking) : (int)NETKIT_OK;
    if (rc != NETKIT_OK) {
        return rc;
    }
    uint64_t deadline = nki_os_deadline(timeout_ms);
    rc = nki_os_connect(s, addr);
    if (rc == NETKIT_E_AGAIN && timeout_ms != 0) {
        rc = nki_os_await_connect(s, deadline);
    }
    int restored = nki_os_reblock(s, was_blocking);
    return rc == NETKIT_OK ? restored : rc;
}

static int nki_os_shutdown(uintptr_t s, int how) {
    int direction;
    switch (how) {
    case NETKIT_SHUT_READ: direction = SHUT_RD; break;
    case NETKIT_SHUT_WRITE: direction = SHUT_WR; break;
    case NETKIT_SHUT_BOTH: direction = SHUT_RDWR; break;
    default: return NETKIT_E_INVALID;
    }
    return NKI_SYS_shutdown(nki_os_fd(s), direction) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_close(uintptr_t s) {
    if (NKI_SYS_close(nki_os_fd(s)) != 0 && errno != EINTR) {
        return nki_os_error();
    }
    return NETKIT_OK;
}

/* When lingering cannot be set the close is an orderly one, and the caller is told. */
static int nki_os_reset(uintptr_t s) {
    struct linger linger;
    linger.l_onoff = 1;
    linger.l_linger = 0;
    int rc = NKI_SYS_setsockopt(nki_os_fd(s), SOL_SOCKET, SO_LINGER, &linger,
                                (socklen_t)sizeof(linger)) != 0
                 ? nki_os_error()
                 : NETKIT_OK;
    int closed = nki_os_close(s);
    return rc != NETKIT_OK ? rc : closed;
}

#endif /* NKI_POSIX */

/* ---- src/os/socket_windows.c ---- */
/* Sockets on Windows: one thin function for each thing the library does with a socket.
 *
 * Owns: what each failure means, and what Windows has not.
 * - No call can be told not to wait, and no socket says whether it is blocking. So what must not
 *   wait looks first whether it would have to, and sends no more than certainly fits. Connecting
 *   within a time is an overlapped call, which does not mind.
 * - A port that is bound is nobody else's (SO_EXCLUSIVEADDRUSE): SO_REUSEADDR would be an
 *   invitation to take it over. Binding over connections in TIME_WAIT needs no option here.
 * - To a port of this machine where nobody listens, connecting is tried four times in two seconds,
 *   unless told not to (SIO_TCP_INITIAL_RTO): the refusal of this machine is final.
 * - ICMP's "port unreachable" makes receiving fail on unconnected sockets, too (WSAECONNRESET),
 *   unless told not to (SIO_UDP_CONNRESET).
 * - WSAPoll did not report a refused connect before Windows 10 2004, select does.
 * Closing is graceful: what was sent is still delivered. */

#if NKI_WINDOWS

#define NKI_MSG_MORE 0
#define NKI_SIO_UDP_CONNRESET _WSAIOW(IOC_VENDOR, 12)
#define NKI_SIO_TCP_INITIAL_RTO _WSAIOW(IOC_VENDOR, 17)

enum {
    NKI_NOW_MOST =
        16384, /* bytes that a socket takes at once when it says that it can be written */
    NKI_LISTEN_PLAIN = 200 /* a backlog above is cut to it, unless given as a hint */
};

static int nki_os_set_blocking(SOCKET s, bool is_blocking) {
    u_long mode = is_blocking ? 0 : 1;
    return NKI_SYS_ioctl(s, (long)FIONBIO, &mode) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_get_int(SOCKET s, int level, int name, int *value) {
    int len = (int)sizeof *value;
    *value = 0;
    return NKI_SYS_getsockopt(s, level, name, value, &len) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_set_int(SOCKET s, int level, int name, int value) {
    return NKI_SYS_setsockopt(s, level, name, &value, (int)sizeof value) != 0 ? nki_os_error()
                                                                              : NETKIT_OK;
}

/* Whether receiving fails with what ICMP says. Not every provider knows it. */
static int nki_os_set_reports(SOCKET s, bool is_on) {
    BOOL value = is_on ? TRUE : FALSE;
    DWORD got = 0;
    return NKI_SYS_control(s, NKI_SIO_UDP_CONNRESET, &value, (DWORD)sizeof value, NULL, 0, &got) !=
                   0
               ? nki_os_error()
               : NETKIT_OK;
}

/* What is not bound before it connects is for both families, as elsewhere: a mapped address is one
 * of IPv4, which a socket for IPv6 alone, the kind that is made here, cannot reach. */
static int nki_os_finish_socket(SOCKET s, int domain, bool is_blocking) {
    int rc = is_blocking ? (int)NETKIT_OK : nki_os_set_blocking(s, false);
    return rc == NETKIT_OK && domain == AF_INET6 ? nki_os_set_int(s, IPPROTO_IPV6, IPV6_V6ONLY, 0)
                                                 : rc;
}

static int nki_os_socket(int family, int type, bool is_blocking, uintptr_t *out) {
    int domain = nki_os_domain(family);
    *out = UINTPTR_MAX;
    if (domain < 0 || (type != NETKIT_SOCK_STREAM && type != NETKIT_SOCK_DGRAM)) {
        return NETKIT_E_INVALID;
    }
    SOCKET s = NKI_SYS_socket(domain, type == NETKIT_SOCK_DGRAM ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (s == INVALID_SOCKET) {
        return nki_os_error();
    }
    int rc = nki_os_finish_socket(s, domain, is_blocking);
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)s);
        return rc;
    }
    if (type == NETKIT_SOCK_DGRAM) {
        (void)nki_os_set_reports(s, false);
    }
    *out = (uintptr_t)s;
    return NETKIT_OK;
}

static bool nki_os_is_datagram(uintptr_t s) {
    int type = 0;
    int len = (int)sizeof type;
    return NKI_SYS_getsockopt(nki_os_fd(s), SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
           type == SOCK_DGRAM;
}

/* ---- binding, listening, accepting ---- */

/* A socket that shares its port, for multicasts, was told so before. */
static int nki_os_bind_options(SOCKET s, const netkit_addr *addr, int flags) {
    int is_shared;
    int rc = nki_os_get_int(s, SOL_SOCKET, SO_REUSEADDR, &is_shared);
    if (rc == NETKIT_OK && is_shared == 0) {
        rc = nki_os_set_int(s, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1);
    }
    if (rc == NETKIT_OK && addr->family == NETKIT_AF_IPV6) {
        bool is_v6only = (flags & NETKIT_SOCKET_V6ONLY) != 0;
        rc = nki_os_set_int(s, IPPROTO_IPV6, IPV6_V6ONLY, is_v6only ? 1 : 0);
    }
    return rc;
}

static int nki_os_bind(uintptr_t s, const netkit_addr *addr, int flags) {
    const int known = NETKIT_SOCKET_REUSE_PORT | NETKIT_SOCKET_V6ONLY | NETKIT_SOCKET_NO_REUSE |
                      NETKIT_SOCKET_REPLACE;
    struct sockaddr_storage sa;
    socklen_t len;
    netkit_unix_file file;
    if ((flags & ~known) != 0) {
        return NETKIT_E_INVALID;
    }
    if (addr->family == NETKIT_AF_UNIX && (flags & NETKIT_SOCKET_REPLACE) != 0) {
        return nki_os_bind_unix(s, addr, flags, 0, &file);
    }
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc == NETKIT_OK && (flags & NETKIT_SOCKET_REUSE_PORT) != 0) {
        rc = NETKIT_E_NOSYS; /* no balance: SO_REUSEADDR gives everything to one of them */
    }
    if (rc == NETKIT_OK && addr->family != NETKIT_AF_UNIX) {
        rc = nki_os_bind_options(nki_os_fd(s), addr, flags);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    const struct sockaddr *at = (const struct sockaddr *)(const void *)&sa;
    return NKI_SYS_bind(nki_os_fd(s), at, len) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_listen(uintptr_t s, int backlog) {
    if (backlog < 0) {
        return NETKIT_E_INVALID;
    }
    int most = backlog == 0 ? SOMAXCONN : backlog;
    if (backlog > NKI_LISTEN_PLAIN) {
        most = -NKI_MIN(backlog, 65535); /* SOMAXCONN_HINT */
    }
    return NKI_SYS_listen(nki_os_fd(s), most) != 0 ? nki_os_error() : NETKIT_OK;
}

/* Of the connection, not of the listener: it was reset before it was accepted. */
static NKI_COLD int nki_os_accept_error(void) {
    switch (nki_os_code()) {
    case WSAECONNRESET:
    case WSAECONNABORTED:
    case WSAENETRESET:
    case WSAENETDOWN:
    case WSAENOTCONN: /* wine's word for it, when it is asked who that was */
    case WSAETIMEDOUT: return NETKIT_E_ABORTED;
    default: return nki_os_error();
    }
}

/* The mode is the listener's at first, and programs that are started would inherit the socket. */
static int nki_os_finish_accepted(SOCKET s) {
    int rc = nki_os_set_blocking(s, false);
    if (rc == NETKIT_OK && !NKI_SYS_set_handle(nki_os_handle(s), HANDLE_FLAG_INHERIT, 0)) {
        rc = nki_os_error();
    }
    return rc;
}

static int nki_os_accept(uintptr_t s, uintptr_t *out, netkit_addr *peer) {
    struct sockaddr_storage sa;
    int len = (int)sizeof sa;
    struct sockaddr *at = peer != NULL ? (struct sockaddr *)(void *)&sa : NULL;
    *out = UINTPTR_MAX;
    if (peer != NULL) {
        memset(peer, 0, sizeof *peer);
        memset(&sa, 0, sizeof sa);
    }
    SOCKET taken = NKI_SYS_accept(nki_os_fd(s), at, at != NULL ? &len : NULL);
    if (taken == INVALID_SOCKET) {
        return nki_os_code() == WSAEWOULDBLOCK ? (int)NETKIT_E_AGAIN : nki_os_accept_error();
    }
    int rc = nki_os_finish_accepted(taken);
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)taken);
        return rc;
    }
    if (peer != NULL) {
        nki_sockaddr_to(peer, &sa, len);
    }
    *out = (uintptr_t)taken;
    return NETKIT_OK;
}

/* ---- names ---- */

static int nki_os_name(SOCKET s, bool is_peer, netkit_addr *out) {
    struct sockaddr_storage sa;
    int len = (int)sizeof sa;
    struct sockaddr *at = (struct sockaddr *)(void *)&sa;
    memset(out, 0, sizeof *out);
    memset(&sa, 0, sizeof sa);
    int rc = is_peer ? NKI_SYS_getpeername(s, at, &len) : NKI_SYS_getsockname(s, at, &len);
    if (rc != 0) {
        return nki_os_error();
    }
    nki_sockaddr_to(out, &sa, len);
    return NETKIT_OK;
}

/* NETKIT_AF_* of a socket, bound or not. */
static int nki_os_family(uintptr_t s, int *family) {
    WSAPROTOCOL_INFOW info;
    int len = (int)sizeof info;
    *family = NETKIT_AF_NONE;
    if (NKI_SYS_getsockopt(nki_os_fd(s), SOL_SOCKET, SO_PROTOCOL_INFOW, &info, &len) != 0) {
        return nki_os_error();
    }
    *family = info.iAddressFamily == AF_INET    ? NETKIT_AF_IPV4
              : info.iAddressFamily == AF_INET6 ? NETKIT_AF_IPV6
              : info.iAddressFamily == AF_UNIX  ? NETKIT_AF_UNIX
                                                : NETKIT_AF_NONE;
    return NETKIT_OK;
}

/* A socket that was never bound has no name here (WSAEINVAL): elsewhere its address is all zero. */
static int nki_os_local(uintptr_t s, netkit_addr *out) {
    int rc = nki_os_name(nki_os_fd(s), false, out);
    if (rc == NETKIT_OK || nki_os_code() != WSAEINVAL) {
        return rc;
    }
    int family;
    rc = nki_os_family(s, &family);
    out->family = (uint8_t)family;
    return rc;
}

static int nki_os_remote(uintptr_t s, netkit_addr *out) {
    return nki_os_name(nki_os_fd(s), true, out);
}

/* A TCP socket that dials a port of the ephemeral range nobody listens on may be given that very
 * port as its own, meet its own SYN and connect to itself (RFC 9293, 3.5: simultaneous open). It
 * would then hold the port against the server it waits for: that is a refusal (C-07). */
static int nki_os_check_peer(SOCKET s) {
    netkit_addr peer;
    netkit_addr self;
    int rc = nki_os_name(s, true, &peer);
    if (rc != NETKIT_OK || (peer.family != NETKIT_AF_IPV4 && peer.family != NETKIT_AF_IPV6)) {
        return rc;
    }
    rc = nki_os_name(s, false, &self);
    if (rc != NETKIT_OK) {
        return rc;
    }
    bool is_same = self.port == peer.port && self.family == peer.family &&
                   memcmp(self.ip, peer.ip, sizeof self.ip) == 0;
    return is_same && !nki_os_is_datagram((uintptr_t)s) ? nki_os_fail(WSAECONNREFUSED) : NETKIT_OK;
}

/* ---- waiting ---- */

static short nki_os_poll_from(uint32_t events) {
    int bits = (events & NETKIT_POLL_READ) != 0 ? POLLRDNORM : 0;
    bits |= (events & NETKIT_POLL_PRIORITY) != 0 ? POLLRDBAND : 0;
    bits |= (events & NETKIT_POLL_WRITE) != 0 ? POLLWRNORM : 0;
    return (short)bits;
}

/* WSAPoll's hang-up is one direction's, the peer's; with an error it is both. */
static uint32_t nki_os_poll_to(short bits) {
    uint32_t events = (bits & POLLRDNORM) != 0 ? (uint32_t)NETKIT_POLL_READ : 0u;
    events |= (bits & POLLRDBAND) != 0 ? (uint32_t)NETKIT_POLL_PRIORITY : 0u;
    events |= (bits & POLLWRNORM) != 0 ? (uint32_t)NETKIT_POLL_WRITE : 0u;
    events |= (bits & POLLERR) != 0 ? (uint32_t)NETKIT_POLL_ERROR : 0u;
    if ((bits & POLLHUP) != 0) {
        events |= (uint32_t)(NETKIT_POLL_READ | NETKIT_POLL_PEER_END);
        events |= (bits & POLLERR) != 0 ? (uint32_t)NETKIT_POLL_HANGUP : 0u;
    }
    return events;
}

/* Look without waiting: 1, 0, or an error. */
static int nki_os_look(SOCKET s, uint32_t events, uint32_t *held) {
    WSAPOLLFD one;
    one.fd = s;
    one.events = nki_os_poll_from(events);
    one.revents = 0;
    int ready = NKI_SYS_poll(&one, 1, 0);
    *held = ready > 0 ? nki_os_poll_to(one.revents) : 0;
    return ready < 0 ? nki_os_error() : ready > 0 && (one.revents & POLLNVAL) == 0 ? 1 : 0;
}

static void nki_fd_set_one(fd_set *set, SOCKET s, bool is_in) {
    set->fd_count = is_in ? 1 : 0;
    set->fd_array[0] = s;
}

/* The sets of one: select's limit of 64 does not matter. Its third says that connecting has failed.
 * Returns events, 0 after the time, or an error. */
static int nki_os_select(SOCKET s, uint32_t events, int ms) {
    fd_set readable;
    fd_set writable;
    fd_set special;
    struct timeval time;
    bool is_special = (events & (NETKIT_POLL_WRITE | NETKIT_POLL_PRIORITY)) != 0;
    uint32_t held = 0;
    nki_fd_set_one(&readable, s, (events & (NETKIT_POLL_READ | NETKIT_POLL_PEER_END)) != 0);
    nki_fd_set_one(&writable, s, (events & NETKIT_POLL_WRITE) != 0);
    nki_fd_set_one(&special, s, is_special);
    time.tv_sec = ms / 1000;
    time.tv_usec = ms % 1000 * 1000;
    int ready = NKI_SYS_select(&readable, &writable, &special, ms < 0 ? NULL : &time);
    if (ready <= 0) {
        return ready < 0 ? nki_os_error() : 0;
    }
    uint32_t seen = readable.fd_count != 0 ? (uint32_t)NETKIT_POLL_READ : 0u;
    seen |= writable.fd_count != 0 ? (uint32_t)NETKIT_POLL_WRITE : 0u;
    (void)nki_os_look(s, events, &held); /* says more */
    held &= events | (uint32_t)(NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP);
    if (special.fd_count != 0 && held == 0) {
        seen |= (uint32_t)(NETKIT_POLL_ERROR | NETKIT_POLL_WRITE);
    }
    return (int)((seen | held) & (events | (uint32_t)(NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP)));
}

static int nki_os_wait(uintptr_t s, uint32_t events, uint64_t deadline_ns) {
    if ((events & (NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_PRIORITY |
                   NETKIT_POLL_PEER_END)) == 0) {
        return NETKIT_E_INVALID; /* select takes no sets that are all empty */
    }
    for (;;) {
        uint64_t left = NKI_NEVER;
        if (deadline_ns != NKI_NEVER) {
            uint64_t now = nki_os_now_ns();
            left = now != 0 && now < deadline_ns ? deadline_ns - now : 0;
        }
        int ms = nki_os_poll_ms(left);
        int held = nki_os_select(nki_os_fd(s), events, ms);
        if (held != 0) {
            return held;
        }
        if (ms >= 0 && ms < INT_MAX) { /* else it was cut, and there is more */
            return nki_os_timed_out();
        }
    }
}

/* What there is instead of MSG_DONTWAIT: NETKIT_OK when a call will not wait. One that fails at
 * once does not wait either. */
static int nki_os_would_wait(uintptr_t s, uint32_t events) {
    uint32_t held;
    netkit_addr peer;
    int rc = nki_os_look(nki_os_fd(s), events, &held);
    if (rc != 0) {
        return rc < 0 ? rc : (int)NETKIT_OK;
    }
    rc = nki_os_remote(s, &peer);
    return rc == NETKIT_E_NOTCONN && !nki_os_is_datagram(s) ? rc : (int)NETKIT_E_AGAIN;
}

/* ---- connecting ---- */

static bool nki_os_is_loopback(const netkit_addr *addr) {
    static const uint8_t one[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    return addr->family == NETKIT_AF_IPV4 ? addr->ip[0] == 127
                                          : memcmp(addr->ip, one, sizeof one) == 0;
}

/* Where the system cannot, a refusal comes late. */
static void nki_os_fail_fast(SOCKET s, const netkit_addr *addr) {
    struct {
        uint16_t first_rtt; /* 0xFFFF = the system's */
        uint8_t retries;    /* 0xFE = none */
        uint8_t unused;
    } how = {0xFFFF, 0xFE, 0};
    DWORD got = 0;
    if (addr->family != NETKIT_AF_UNIX && nki_os_is_loopback(addr)) {
        int os_code = nki_os_code();
        (void)NKI_SYS_control(s, NKI_SIO_TCP_INITIAL_RTO, &how, (DWORD)sizeof how, NULL, 0, &got);
        WSASetLastError(os_code);
    }
}

static int nki_os_connect(uintptr_t s, const netkit_addr *addr) {
    struct sockaddr_storage sa;
    socklen_t len;
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc != NETKIT_OK) {
        return rc;
    }
    nki_os_fail_fast(nki_os_fd(s), addr);
    if (NKI_SYS_connect(nki_os_fd(s), (const struct sockaddr *)(const void *)&sa, len) != 0) {
        return nki_os_error();
    }
    return nki_os_check_peer(nki_os_fd(s));
}

static int nki_os_connect_check(SOCKET s) {
    int error;
    int rc = nki_os_get_int(s, SOL_SOCKET, SO_ERROR, &error);
    if (rc == NETKIT_OK && error != 0) {
        rc = nki_os_fail(error);
    }
    return rc == NETKIT_OK ? nki_os_check_peer(s) : rc;
}

/* Without an error and without a peer a socket is on its way, or was never sent: then it has no
 * address either, unless it was bound to one. */
static int nki_os_connect_result(uintptr_t s) {
    SOCKET fd = nki_os_fd(s);
    netkit_addr self;
    int rc = nki_os_connect_check(fd);
    if (rc != NETKIT_E_NOTCONN) {
        return rc;
    }
    if (nki_os_name(fd, false, &self) != NETKIT_OK) {
        return nki_os_fail(WSAENOTCONN);
    }
    rc = nki_os_select(fd, NETKIT_POLL_WRITE, 0);
    if (rc <= 0) {
        return rc == 0 ? (int)NETKIT_E_AGAIN : rc;
    }
    rc = nki_os_connect_check(fd); /* over, without an error: it was connected, and is reset */
    return rc == NETKIT_E_NOTCONN ? nki_os_fail(WSAECONNRESET) : rc;
}

/* An overlapped connect wants a socket that is bound. To any address, if it is not. */
static int nki_os_bind_any(SOCKET s, int family) {
    netkit_addr any;
    struct sockaddr_storage sa;
    socklen_t len;
    memset(&any, 0, sizeof any);
    any.family = (uint8_t)family;
    (void)nki_sockaddr_from(&sa, &len, &any);
    if (NKI_SYS_bind(s, (const struct sockaddr *)(const void *)&sa, len) != 0 &&
        nki_os_code() != WSAEINVAL) {
        return nki_os_error();
    }
    return NETKIT_OK;
}

/* The memory of a call is the system's until it is over, so a call that takes too long is cancelled
 * and waited for, which is soon. */
static int nki_os_await_overlapped(SOCKET s, OVERLAPPED *o, HANDLE event, int timeout_ms) {
    DWORD got = 0;
    DWORD flags = 0;
    DWORD ended = NKI_SYS_wait_handle(event, (DWORD)timeout_ms);
    int os_code = nki_os_code();
    if (ended != WAIT_OBJECT_0) {
        (void)NKI_SYS_cancel(nki_os_handle((uintptr_t)s), o);
    }
    if (NKI_SYS_result(s, o, &got, TRUE, &flags)) {
        return NETKIT_OK;
    }
    if (ended == WAIT_OBJECT_0 || nki_os_code() != WSA_OPERATION_ABORTED) {
        return nki_os_error();
    }
    return ended == WAIT_TIMEOUT ? nki_os_timed_out() : nki_os_fail(os_code);
}

static int nki_os_connect_overlapped(SOCKET s, const struct sockaddr *to, int len, int timeout_ms) {
    static const GUID which = WSAID_CONNECTEX;
    LPFN_CONNECTEX call = NULL;
    DWORD got = 0;
    OVERLAPPED o;
    GUID guid = which;
    if (NKI_SYS_extension(s, &guid, &call, (DWORD)sizeof call, &got) != 0) {
        return nki_os_error();
    }
    HANDLE event = NKI_SYS_event();
    if (event == NULL) {
        return nki_os_error();
    }
    memset(&o, 0, sizeof o);
    /* The lowest bit: no packet to a completion port that the socket may belong to. */
    o.hEvent = nki_os_handle((uintptr_t)event | 1u);
    int rc = NETKIT_OK;
    if (!NKI_SYS_connect_ex(call, s, to, len, &o)) {
        rc = nki_os_code() == WSA_IO_PENDING ? nki_os_await_overlapped(s, &o, event, timeout_ms)
                                             : nki_os_error();
    }
    nki_os_abandon_file((uintptr_t)event);
    if (rc == NETKIT_OK &&
        NKI_SYS_setsockopt(s, SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0) != 0) {
        rc = nki_os_error();
    }
    return rc == NETKIT_OK ? nki_os_check_peer(s) : rc;
}

/* Datagrams and unix sockets connect at once. */
static int nki_os_connect_timed(uintptr_t s, const netkit_addr *addr, int timeout_ms) {
    struct sockaddr_storage sa;
    socklen_t len;
    if (addr->family == NETKIT_AF_UNIX || nki_os_is_datagram(s)) {
        return nki_os_connect(s, addr);
    }
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc == NETKIT_OK) {
        rc = nki_os_bind_any(nki_os_fd(s), addr->family);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    nki_os_fail_fast(nki_os_fd(s), addr);
    return nki_os_connect_overlapped(nki_os_fd(s), (const struct sockaddr *)(const void *)&sa, len,
                                     timeout_ms);
}

static int nki_os_connect_within(uintptr_t s, const netkit_addr *addr, int timeout_ms) {
    if (timeout_ms > 0) {
        return nki_os_connect_timed(s, addr, timeout_ms);
    }
    int rc = timeout_ms == 0 ? nki_os_set_blocking(nki_os_fd(s), false) : (int)NETKIT_OK;
    if (rc == NETKIT_OK) {
        rc = nki_os_connect(s, addr);
    }
    while (timeout_ms < 0 && rc == NETKIT_E_AGAIN) {
        rc = nki_os_wait(s, NETKIT_POLL_WRITE, NKI_NEVER);
        rc = rc < 0 ? rc : nki_os_connect_result(s);
    }
    return rc;
}

/* Nothing here needs it. */
static int nki_os_unblock(uintptr_t s, bool *was_blocking) {
    NKI_UNUSED(s);
    *was_blocking = false;
    return NETKIT_OK;
}

static int nki_os_reblock(uintptr_t s, bool was_blocking) {
    NKI_UNUSED(s);
    NKI_UNUSED(was_blocking);
    return NETKIT_OK;
}

/* ---- moving bytes ---- */

/* What recv said, when it gave no bytes. A datagram that was cut is one all the same. A limit on
 * the time of calls that wait (NETKIT_OPT_RECV_TIMEOUT) ends as a dead connection does. */
static NKI_COLD int nki_os_recv_error(uintptr_t s, size_t len) {
    int limit;
    int os_code = nki_os_code();
    switch (os_code) {
    case WSAEWOULDBLOCK: return NETKIT_E_AGAIN;
    case WSAEMSGSIZE: return (int)len;
    case WSAESHUTDOWN: return NETKIT_E_EOF;
    case WSAECONNABORTED: return NETKIT_E_RESET;
    case WSAECONNRESET:
        return nki_os_is_datagram(s) ? nki_os_fail(WSAECONNREFUSED) : NETKIT_E_RESET;
    case WSAETIMEDOUT:
        limit = 0;
        (void)nki_os_get_int(nki_os_fd(s), SOL_SOCKET, SO_RCVTIMEO, &limit);
        (void)nki_os_fail(os_code);
        return limit != 0 ? NETKIT_E_AGAIN : NETKIT_E_TIMEOUT;
    default: return netkit_error_from_os(os_code);
    }
}

/* Wine takes the error out of a socket that was reset, and what receiving is left with looks like
 * an end: polling still knows better. */
static NKI_COLD int nki_os_recv_end(uintptr_t s) {
    uint32_t held;
    bool is_reset = nki_os_look(nki_os_fd(s), NETKIT_POLL_READ, &held) == 1 &&
                    (held & NETKIT_POLL_ERROR) != 0 && !nki_os_is_datagram(s);
    return is_reset ? nki_os_fail(WSAECONNRESET) : (int)NETKIT_E_EOF;
}

static int nki_os_recv_result(uintptr_t s, int got, size_t len) {
    if (got > 0 || (got == 0 && len == 0)) {
        return got;
    }
    return got == 0 ? nki_os_recv_end(s) : nki_os_recv_error(s, len);
}

static int nki_os_recv_flags(uintptr_t s, void *data, size_t len, int flags) {
    size_t most = NKI_MIN(len, (size_t)INT_MAX);
    return nki_os_recv_result(s, NKI_SYS_recv(nki_os_fd(s), data, most, flags), most);
}

/* Once for every message, so without detour. */
static NKI_HOT int nki_os_recv(uintptr_t s, void *data, size_t len) {
    int got = NKI_SYS_recv((SOCKET)s, data, len, 0);
    return NKI_LIKELY(got > 0) ? got : nki_os_recv_result(s, got, len);
}

static int nki_os_recv_now(uintptr_t s, void *data, size_t len) {
    int rc = nki_os_would_wait(s, NETKIT_POLL_READ);
    return rc != NETKIT_OK ? rc : nki_os_recv_flags(s, data, len, 0);
}

/* To a peer that is gone, however it went. */
static NKI_COLD int nki_os_send_error(uintptr_t s) {
    int limit;
    int os_code = nki_os_code();
    switch (os_code) {
    case WSAEWOULDBLOCK: return NETKIT_E_AGAIN;
    case WSAESHUTDOWN:
    case WSAECONNABORTED: return NETKIT_E_RESET;
    case WSAETIMEDOUT:
        limit = 0;
        (void)nki_os_get_int(nki_os_fd(s), SOL_SOCKET, SO_SNDTIMEO, &limit);
        (void)nki_os_fail(os_code);
        return limit != 0 ? NETKIT_E_AGAIN : NETKIT_E_TIMEOUT;
    default: return netkit_error_from_os(os_code);
    }
}

static int nki_os_send_flags(uintptr_t s, const void *data, size_t len, int flags) {
    size_t most = NKI_MIN(len, (size_t)INT_MAX);
    int sent = NKI_SYS_send(nki_os_fd(s), data, most, flags);
    return NKI_LIKELY(sent >= 0) ? sent : nki_os_send_error(s);
}

/* The same for sending. */
static NKI_HOT int nki_os_send(uintptr_t s, const void *data, size_t len) {
    int sent = NKI_SYS_send((SOCKET)s, data, len, 0);
    return NKI_LIKELY(sent >= 0) ? sent : nki_os_send_error(s);
}

/* How much of `len` bytes a socket that can be written takes without waiting: of a datagram all. */
static size_t nki_os_now_most(uintptr_t s, size_t len) {
    return len <= NKI_NOW_MOST || nki_os_is_datagram(s) ? len : (size_t)NKI_NOW_MOST;
}

static int nki_os_send_now(uintptr_t s, const void *data, size_t len) {
    int rc = nki_os_would_wait(s, NETKIT_POLL_WRITE);
    return rc != NETKIT_OK ? rc : nki_os_send_flags(s, data, nki_os_now_most(s, len), 0);
}

/* ---- ends ---- */

static int nki_os_shutdown(uintptr_t s, int how) {
    int direction;
    switch (how) {
    case NETKIT_SHUT_READ: direction = SD_RECEIVE; break;
    case NETKIT_SHUT_WRITE: direction = SD_SEND; break;
    case NETKIT_SHUT_BOTH: direction = SD_BOTH; break;
    default: return NETKIT_E_INVALID;
    }
    return NKI_SYS_shutdown(nki_os_fd(s), direction) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_close(uintptr_t s) {
    return NKI_SYS_close(nki_os_fd(s)) != 0 ? nki_os_error() : NETKIT_OK;
}

/* When lingering cannot be set the close is an orderly one, and the caller is told. */
static int nki_os_reset(uintptr_t s) {
    struct linger linger;
    linger.l_onoff = 1;
    linger.l_linger = 0;
    int rc =
        NKI_SYS_setsockopt(nki_os_fd(s), SOL_SOCKET, SO_LINGER, &linger, (int)sizeof linger) != 0
            ? nki_os_error()
            : NETKIT_OK;
    int closed = nki_os_close(s);
    return rc != NETKIT_OK ? rc : closed;
}

#endif /* NKI_WINDOWS */

/* ---- src/os/wake_windows.c ---- */
/* Pairs of sockets, and the one that wakes a waiting thread where its poller has no wake.
 *
 * Windows has no socketpair, so a pair is a TCP connection of this machine with itself. Between
 * listen and accept anybody on the machine may connect as well: what is accepted is ours only if
 * its peer is the address of our other end. */

#if NKI_WINDOWS

enum {
    NKI_PAIR_STRANGERS = 64, /* connections of others that may come before ours */
    NKI_PAIR_JUNK = 1024,    /* and datagrams */
    NKI_WAKE_BUFFER = 4096   /* bytes */
};

static void nki_pair_loopback(netkit_addr *out) {
    memset(out, 0, sizeof *out);
    out->family = NETKIT_AF_IPV4;
    out->ip[0] = 127;
    out->ip[3] = 1;
}

static bool nki_pair_is_same(const netkit_addr *a, const netkit_addr *b) {
    return a->family == b->family && a->port == b->port && memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

/* A socket of the loopback with a port; `at` is its address. */
static int nki_pair_end(int type, bool is_blocking, uintptr_t *out, netkit_addr *at) {
    netkit_addr any;
    nki_pair_loopback(&any);
    int rc = nki_os_socket(NETKIT_AF_IPV4, type, is_blocking, out);
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_bind(*out, &any, 0);
    if (rc == NETKIT_OK) {
        rc = nki_os_local(*out, at);
    }
    if (rc != NETKIT_OK) {
        nki_os_abandon(*out);
        *out = UINTPTR_MAX;
    }
    return rc;
}

/* Our own connection, among those that may wait. The listener is blocking: ours is there. */
static int nki_pair_accept(uintptr_t listener, const netkit_addr *wanted, uintptr_t *out) {
    for (int i = 0; i < NKI_PAIR_STRANGERS; i++) {
        netkit_addr peer;
        int rc = nki_os_accept(listener, out, &peer);
        if (rc == NETKIT_OK && nki_pair_is_same(&peer, wanted)) {
            return NETKIT_OK;
        }
        if (rc == NETKIT_OK) {
            nki_os_abandon(*out);
            *out = UINTPTR_MAX;
        } else if (rc != NETKIT_E_ABORTED) {
            return rc;
        }
    }
    return nki_os_fail(WSAECONNREFUSED);
}

static int nki_pair_connect(uintptr_t listener, const netkit_addr *at, uintptr_t out[2]) {
    netkit_addr self;
    int rc = nki_pair_end(NETKIT_SOCK_STREAM, true, &out[0], &self);
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_connect(out[0], at);
    if (rc == NETKIT_OK) {
        rc = nki_pair_accept(listener, &self, &out[1]);
    }
    if (rc != NETKIT_OK) {
        nki_os_abandon(out[0]);
        out[0] = UINTPTR_MAX;
    }
    return rc;
}

static int nki_pair_stream(uintptr_t out[2]) {
    uintptr_t listener;
    netkit_addr at;
    int rc = nki_pair_end(NETKIT_SOCK_STREAM, true, &listener, &at);
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_listen(listener, NKI_PAIR_STRANGERS);
    if (rc == NETKIT_OK) {
        rc = nki_pair_connect(listener, &at, out);
    }
    nki_os_abandon(listener);
    return rc;
}

/* From here on each takes datagrams of the other alone; what strangers have sent before is thrown
 * away. */
static int nki_pair_datagram(uintptr_t out[2]) {
    netkit_addr at[2];
    char junk[16];
    int rc = nki_pair_end(NETKIT_SOCK_DGRAM, false, &out[0], &at[0]);
    if (rc == NETKIT_OK) {
        rc = nki_pair_end(NETKIT_SOCK_DGRAM, false, &out[1], &at[1]);
    }
    for (int i = 0; i < 2 && rc == NETKIT_OK; i++) {
        rc = nki_os_connect(out[i], &at[1 - i]);
    }
    for (int i = 0; i < NKI_PAIR_JUNK && rc == NETKIT_OK; i++) {
        if (nki_os_recv(out[i & 1], junk, sizeof junk) == NETKIT_E_AGAIN &&
            nki_os_recv(out[1 - (i & 1)], junk, sizeof junk) == NETKIT_E_AGAIN) {
            break;
        }
    }
    return rc;
}

/* As unix sockets, which do not wait for more before they send. */
static int nki_pair_finish(uintptr_t s, int type, bool is_blocking) {
    int rc = nki_os_set_blocking(nki_os_fd(s), is_blocking);
    return rc == NETKIT_OK && type == NETKIT_SOCK_STREAM
               ? nki_os_set_int(nki_os_fd(s), IPPROTO_TCP, TCP_NODELAY, 1)
               : rc;
}

static int nki_os_pair(int type, bool is_blocking, uintptr_t out[2]) {
    out[0] = out[1] = UINTPTR_MAX;
    if (type != NETKIT_SOCK_STREAM && type != NETKIT_SOCK_DGRAM) {
        return NETKIT_E_INVALID;
    }
    int rc = type == NETKIT_SOCK_STREAM ? nki_pair_stream(out) : nki_pair_datagram(out);
    for (int i = 0; i < 2 && rc == NETKIT_OK; i++) {
        rc = nki_pair_finish(out[i], type, is_blocking);
    }
    for (int i = 0; i < 2 && rc != NETKIT_OK; i++) {
        if (out[i] != UINTPTR_MAX) {
            nki_os_abandon(out[i]);
            out[i] = UINTPTR_MAX;
        }
    }
    return rc;
}

static int nki_os_plain_socket(int family, int type, bool is_blocking, uintptr_t *out) {
    *out = UINTPTR_MAX;
    int rc = nki_os_begin();
    return rc == NETKIT_OK ? nki_os_socket(family, type, is_blocking, out) : rc;
}

static int nki_os_plain_pair(int type, bool is_blocking, uintptr_t out[2]) {
    out[0] = out[1] = UINTPTR_MAX;
    int rc = nki_os_begin();
    return rc == NETKIT_OK ? nki_os_pair(type, is_blocking, out) : rc;
}

/* ---- wake ---- */

static int nki_os_wake_open(nki_wake *out) {
    uintptr_t pair[2];
    int rc = nki_os_pair(NETKIT_SOCK_STREAM, false, pair);
    out->reader = pair[0];
    out->writer = pair[1];
    if (rc == NETKIT_OK) { /* as little as there can be, so that it is soon drained */
        (void)nki_os_set_int(nki_os_fd(out->reader), SOL_SOCKET, SO_RCVBUF, NKI_WAKE_BUFFER);
        (void)nki_os_set_int(nki_os_fd(out->writer), SOL_SOCKET, SO_SNDBUF, NKI_WAKE_BUFFER);
    }
    return rc;
}

static void nki_os_wake_close(nki_wake *wake) {
    if (wake->reader != UINTPTR_MAX) {
        nki_os_abandon(wake->reader);
    }
    if (wake->writer != UINTPTR_MAX) {
        nki_os_abandon(wake->writer);
    }
    wake->reader = wake->writer = UINTPTR_MAX;
}

/* A pair that is full is signalled already. */
static int nki_os_wake_signal(const nki_wake *wake) {
    int os_code = nki_os_code();
    int rc = nki_os_send(wake->writer, "", 1);
    if (rc < 0 && rc != NETKIT_E_AGAIN) {
        return rc;
    }
    WSASetLastError(os_code);
    return NETKIT_OK;
}

static void nki_os_wake_drain(const nki_wake *wake) {
    char junk[256];
    for (int i = 0; i < NKI_PAIR_JUNK; i++) {
        if (nki_os_recv(wake->reader, junk, sizeof junk) < (int)sizeof junk) {
            return;
        }
    }
}

#endif /* NKI_WINDOWS */

/* ---- src/os/option_posix.c ---- */
/* Options of sockets on POSIX: one table from netkit's names to the system's.
 *
 * A row that the system has no name for says so with the level -1 and gives NETKIT_E_NOSYS; so
 * does an option of TCP asked of another protocol, by the kernel's own ENOPROTOOPT or EOPNOTSUPP.
 * What a kernel returns for a boolean may be any number but 0 (the BSDs return the option's bit):
 * it is made 1. Blocking and close-on-exec are flags of the descriptor and go through fcntl. Time
 * limits are milliseconds here and a struct timeval there, lingering is one number here. */

#if NKI_POSIX

#if defined(TCP_KEEPIDLE)
#define NKI_TCP_KEEPIDLE TCP_KEEPIDLE
#elif defined(TCP_KEEPALIVE) /* the same under macOS's name */
#define NKI_TCP_KEEPIDLE TCP_KEEPALIVE
#endif

static const nki_option_row *nki_option_find(netkit_option option) {
    static const nki_option_row rows[] = {
        {NETKIT_OPT_NODELAY, IPPROTO_TCP, TCP_NODELAY, NKI_OPTION_BOOL},
        {NETKIT_OPT_KEEPALIVE, SOL_SOCKET, SO_KEEPALIVE, NKI_OPTION_BOOL},
        {NETKIT_OPT_REUSE_ADDR, SOL_SOCKET, SO_REUSEADDR, NKI_OPTION_BOOL},
        {NETKIT_OPT_EXCLUSIVE_ADDR, -1, 0, NKI_OPTION_BOOL},
        {NETKIT_OPT_V6ONLY, IPPROTO_IPV6, IPV6_V6ONLY, NKI_OPTION_BOOL},
        {NETKIT_OPT_RECV_BUFFER, SOL_SOCKET, SO_RCVBUF, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_SEND_BUFFER, SOL_SOCKET, SO_SNDBUF, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_RECV_TIMEOUT, SOL_SOCKET, SO_RCVTIMEO, NKI_OPTION_TIME},
        {NETKIT_OPT_SEND_TIMEOUT, SOL_SOCKET, SO_SNDTIMEO, NKI_OPTION_TIME},
        {NETKIT_OPT_LINGER, SOL_SOCKET, SO_LINGER, NKI_OPTION_LINGER},
#if defined(TCP_FASTOPEN)
        {NETKIT_OPT_FAST_OPEN, IPPROTO_TCP, TCP_FASTOPEN, NKI_OPTION_NATURAL},
#else
        {NETKIT_OPT_FAST_OPEN, -1, 0, NKI_OPTION_NATURAL},
#endif
#if defined(TCP_FASTOPEN_CONNECT)
        {NETKIT_OPT_FAST_OPEN_CONNECT, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, NKI_OPTION_BOOL},
#else
        {NETKIT_OPT_FAST_OPEN_CONNECT, -1, 0, NKI_OPTION_BOOL},
#endif
#if NKI_LINUX && defined(SO_PASSCRED)
        {NETKIT_OPT_CREDENTIALS, SOL_SOCKET, SO_PASSCRED, NKI_OPTION_BOOL},
#else
        {NETKIT_OPT_CREDENTIALS, -1, 0, NKI_OPTION_BOOL},
#endif
#if defined(NKI_TCP_KEEPIDLE)
        {NETKIT_OPT_KEEPALIVE_IDLE, IPPROTO_TCP, NKI_TCP_KEEPIDLE, NKI_OPTION_POSITIVE},
#else
        {NETKIT_OPT_KEEPALIVE_IDLE, -1, 0, NKI_OPTION_POSITIVE},
#endif
#if defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
        {NETKIT_OPT_KEEPALIVE_PERIOD, IPPROTO_TCP, TCP_KEEPINTVL, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_KEEPALIVE_COUNT, IPPROTO_TCP, TCP_KEEPCNT, NKI_OPTION_POSITIVE},
#else
        {NETKIT_OPT_KEEPALIVE_PERIOD, -1, 0, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_KEEPALIVE_COUNT, -1, 0, NKI_OPTION_POSITIVE},
#endif
#if defined(TCP_USER_TIMEOUT)
        {NETKIT_OPT_USER_TIMEOUT, IPPROTO_TCP, TCP_USER_TIMEOUT, NKI_OPTION_NATURAL},
#else
        {NETKIT_OPT_USER_TIMEOUT, -1, 0, NKI_OPTION_NATURAL},
#endif
#if NKI_LINUX && defined(SO_REUSEPORT)
        {NETKIT_OPT_REUSE_PORT, SOL_SOCKET, SO_REUSEPORT, NKI_OPTION_BOOL},
#elif defined(SO_REUSEPORT_LB)
        {NETKIT_OPT_REUSE_PORT, SOL_SOCKET, SO_REUSEPORT_LB, NKI_OPTION_BOOL},
#else
        {NETKIT_OPT_REUSE_PORT, -1, 0, NKI_OPTION_BOOL},
#endif
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].option == (int)option) {
            return &rows[i];
        }
    }
    return NULL;
}

/* Set or clear one flag of a descriptor; no call is made that changes nothing. */
static int nki_option_set_flag(int fd, int get, int set, int flag, bool is_set) {
    int flags = NKI_SYS_fcntl(fd, get, 0);
    if (flags < 0) {
        return nki_os_error();
    }
    int wanted = is_set ? flags | flag : flags & ~flag;
    if (wanted != flags && NKI_SYS_fcntl(fd, set, wanted) < 0) {
        return nki_os_error();
    }
    return NETKIT_OK;
}

static int nki_option_get_flag(int fd, int get, int flag, bool *is_set) {
    int flags = NKI_SYS_fcntl(fd, get, 0);
    if (flags < 0) {
        return nki_os_error();
    }
    *is_set = (flags & flag) != 0;
    return NETKIT_OK;
}

static int nki_option_set_time(int fd, const nki_option_row *row, int value) {
    struct timeval time;
    memset(&time, 0, sizeof time);
    time.tv_sec = value / 1000;
    time.tv_usec = value % 1000 * 1000L;
    return NKI_SYS_setsockopt(fd, row->level, row->name, &time, (socklen_t)sizeof time) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_option_get_time(int fd, const nki_option_row *row, int *value) {
    struct timeval time;
    socklen_t len = (socklen_t)sizeof time;
    memset(&time, 0, sizeof time);
    if (NKI_SYS_getsockopt(fd, row->level, row->name, &time, &len) != 0) {
        return nki_os_error();
    }
    int64_t ms = (int64_t)time.tv_sec * 1000 + ((int64_t)time.tv_usec + 999) / 1000;
    *value = ms > INT_MAX ? INT_MAX : (int)ms;
    return NETKIT_OK;
}

static int nki_option_set_linger(int fd, int value) {
    struct linger linger;
    memset(&linger, 0, sizeof linger);
    linger.l_onoff = value >= 0;
    linger.l_linger = value >= 0 ? value : 0;
    return NKI_SYS_setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, (socklen_t)sizeof linger) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_option_get_linger(int fd, int *value) {
    struct linger linger;
    socklen_t len = (socklen_t)sizeof linger;
    memset(&linger, 0, sizeof linger);
    if (NKI_SYS_getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) != 0) {
        return nki_os_error();
    }
    *value = linger.l_onoff != 0 ? linger.l_linger : -1;
    return NETKIT_OK;
}

/* EINVAL, although the value is one that the option has: macOS says so of every option of a
 * connection that was reset (SD44). Such a one has no name for its peer either. */
static NKI_COLD int nki_option_refused(int fd, int rc) {
    int os_code = errno;
    netkit_addr peer;
    bool is_reset = os_code == EINVAL && nki_os_peer(fd, &peer) == NETKIT_E_RESET;
    errno = os_code;
    return is_reset ? (int)NETKIT_E_RESET : rc;
}

static int nki_option_set_row(int fd, const nki_option_row *row, int value) {
    if (row->level < 0) {
        return NETKIT_E_NOSYS;
    }
    switch (row->values) {
    case NKI_OPTION_TIME: return nki_option_set_time(fd, row, value);
    case NKI_OPTION_LINGER: return nki_option_set_linger(fd, value);
    default: {
        int rc = nki_os_set_int(fd, row->level, row->name, value);
        return rc == NETKIT_OK ? rc : nki_option_refused(fd, rc);
    }
    }
}

static int nki_os_set_option(uintptr_t s, netkit_option option, int value) {
    int fd = nki_os_fd(s);
    bool is_flag = option == NETKIT_OPT_BLOCKING || option == NETKIT_OPT_CLOSE_ON_EXEC;
    const nki_option_row *row = nki_option_find(option);
    if (option >= NETKIT_OPT_BROADCAST) {
        return nki_os_set_ip_option(s, option, value);
    }
    if ((row == NULL && !is_flag) ||
        !nki_option_accepts(is_flag ? (int)NKI_OPTION_BOOL : row->values, value)) {
        return NETKIT_E_INVALID;
    }
    if (option == NETKIT_OPT_BLOCKING) {
        return nki_option_set_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, value == 0);
    }
    if (option == NETKIT_OPT_CLOSE_ON_EXEC) {
        return nki_option_set_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, value != 0);
    }
    return nki_option_set_row(fd, row, value);
}

static int nki_option_get_int(int fd, const nki_option_row *row, int *value) {
    int raw = 0;
    socklen_t len = (socklen_t)sizeof(raw);
    if (row->level < 0) {
        return NETKIT_E_NOSYS;
    }
    if (row->values == NKI_OPTION_TIME) {
        return nki_option_get_time(fd, row, value);
    }
    if (row->values == NKI_OPTION_LINGER) {
        return nki_option_get_linger(fd, value);
    }
    if (NKI_SYS_getsockopt(fd, row->level, row->name, &raw, &len) != 0) {
        return nki_option_refused(fd, nki_os_error());
    }
    *value = row->values == NKI_OPTION_BOOL ? raw != 0 : raw;
    return NETKIT_OK;
}

static int nki_os_get_option(uintptr_t s, netkit_option option, int *value) {
    int fd = nki_os_fd(s);
    bool is_set = false;
    int error;
    int rc;
    const nki_option_row *row = nki_option_find(option);
    *value = 0;
    if (row != NULL) {
        return nki_option_get_int(fd, row, value);
    }
    if (option >= NETKIT_OPT_BROADCAST) {
        return nki_os_get_ip_option(s, option, value);
    }
    switch ((int)option) {
    case NETKIT_OPT_BLOCKING:
        rc = nki_option_get_flag(fd, F_GETFL, O_NONBLOCK, &is_set);
        *value = rc == NETKIT_OK && !is_set;
        return rc;
    case NETKIT_OPT_CLOSE_ON_EXEC:
        rc = nki_option_get_flag(fd, F_GETFD, FD_CLOEXEC, &is_set);
        *value = is_set;
        return rc;
    case NETKIT_OPT_ERROR:
        rc = nki_os_pending_error(fd, &error);
        *value = netkit_error_from_os(error);
        return rc;
    default: return NETKIT_E_INVALID;
    }
}

/* ---- texts ---- */

#if defined(TCP_CONGESTION)
enum {
    NKI_CONGESTION_MAX = 16 /* with its NUL, on Linux and FreeBSD */
};

static int nki_os_set_text(uintptr_t s, netkit_option option, const char *value) {
    size_t len = strlen(value);
    if (option != NETKIT_OPT_CONGESTION || len == 0) {
        return NETKIT_E_INVALID;
    }
    if (len >= NKI_CONGESTION_MAX) {
        return NETKIT_E_NOTFOUND; /* Linux would cut it, and find another */
    }
    return NKI_SYS_setsockopt(nki_os_fd(s), IPPROTO_TCP, TCP_CONGESTION, value, (socklen_t)len) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_os_get_text(uintptr_t s, netkit_option option, char *text, size_t size) {
    char name[NKI_CONGESTION_MAX + 1];
    socklen_t len = (socklen_t)NKI_CONGESTION_MAX;
    if (option != NETKIT_OPT_CONGESTION) {
        return NETKIT_E_INVALID;
    }
    memset(name, 0, sizeof name);
    if (NKI_SYS_getsockopt(nki_os_fd(s), IPPROTO_TCP, TCP_CONGESTION, name, &len) != 0) {
        return nki_os_error();
    }
    size_t used = strlen(name);
    if (used >= size) {
        return NETKIT_E_TOOBIG;
    }
    memcpy(text, name, used + 1);
    return (int)used;
}
#else
static int nki_os_set_text(uintptr_t s, netkit_option option, const char *value) {
    NKI_UNUSED(s);
    NKI_UNUSED(value);
    return option == NETKIT_OPT_CONGESTION ? NETKIT_E_NOSYS : NETKIT_E_INVALID;
}

static int nki_os_get_text(uintptr_t s, netkit_option option, char *text, size_t size) {
    NKI_UNUSED(s);
    NKI_UNUSED(text);
    NKI_UNUSED(size);
    return option == NETKIT_OPT_CONGESTION ? NETKIT_E_NOSYS : NETKIT_E_INVALID;
}
#endif

#endif /* NKI_POSIX */

/* ---- src/os/option_windows.c ---- */
/* Options of sockets on Windows: one table from netkit's names to the system's.
 *
 * A row that the system has no name for says so with the level -1 and gives NETKIT_E_NOSYS. A
 * boolean comes back as one byte or as four, into a number that was 0. Close-on-exec is a flag of
 * the handle. Whether a socket is blocking can be set but not asked. */

#if NKI_WINDOWS

/* Of Windows 10; the numbers are the system's own. */
#define NKI_TCP_KEEPIDLE 3
#define NKI_TCP_KEEPCNT 16
#define NKI_TCP_KEEPINTVL 17

static const nki_option_row *nki_option_find(netkit_option option) {
    static const nki_option_row rows[] = {
        {NETKIT_OPT_NODELAY, IPPROTO_TCP, TCP_NODELAY, NKI_OPTION_BOOL},
        {NETKIT_OPT_KEEPALIVE, SOL_SOCKET, SO_KEEPALIVE, NKI_OPTION_BOOL},
        {NETKIT_OPT_KEEPALIVE_IDLE, IPPROTO_TCP, NKI_TCP_KEEPIDLE, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_KEEPALIVE_PERIOD, IPPROTO_TCP, NKI_TCP_KEEPINTVL, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_KEEPALIVE_COUNT, IPPROTO_TCP, NKI_TCP_KEEPCNT, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_USER_TIMEOUT, -1, 0, NKI_OPTION_NATURAL},
        {NETKIT_OPT_REUSE_ADDR, SOL_SOCKET, SO_REUSEADDR, NKI_OPTION_BOOL},
        {NETKIT_OPT_EXCLUSIVE_ADDR, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, NKI_OPTION_BOOL},
        {NETKIT_OPT_REUSE_PORT, -1, 0, NKI_OPTION_BOOL},
        {NETKIT_OPT_V6ONLY, IPPROTO_IPV6, IPV6_V6ONLY, NKI_OPTION_BOOL},
        {NETKIT_OPT_RECV_BUFFER, SOL_SOCKET, SO_RCVBUF, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_SEND_BUFFER, SOL_SOCKET, SO_SNDBUF, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_RECV_TIMEOUT, SOL_SOCKET, SO_RCVTIMEO, NKI_OPTION_NATURAL},
        {NETKIT_OPT_SEND_TIMEOUT, SOL_SOCKET, SO_SNDTIMEO, NKI_OPTION_NATURAL},
        {NETKIT_OPT_LINGER, SOL_SOCKET, SO_LINGER, NKI_OPTION_LINGER},
        {NETKIT_OPT_FAST_OPEN, -1, 0, NKI_OPTION_NATURAL},
        {NETKIT_OPT_FAST_OPEN_CONNECT, -1, 0, NKI_OPTION_BOOL},
        {NETKIT_OPT_CREDENTIALS, -1, 0, NKI_OPTION_BOOL},
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].option == (int)option) {
            return &rows[i];
        }
    }
    return NULL;
}

static int nki_option_set_linger(SOCKET s, int value) {
    struct linger linger;
    linger.l_onoff = value >= 0 ? 1 : 0;
    linger.l_linger = (u_short)NKI_MAX(value, 0);
    return NKI_SYS_setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, (int)sizeof linger) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_option_get_linger(SOCKET s, int *value) {
    struct linger linger;
    int len = (int)sizeof linger;
    memset(&linger, 0, sizeof linger);
    if (NKI_SYS_getsockopt(s, SOL_SOCKET, SO_LINGER, &linger, &len) != 0) {
        return nki_os_error();
    }
    *value = linger.l_onoff != 0 ? linger.l_linger : -1;
    return NETKIT_OK;
}

static int nki_option_set_inherited(uintptr_t s, bool is_inherited) {
    DWORD flags = is_inherited ? HANDLE_FLAG_INHERIT : 0;
    return NKI_SYS_set_handle(nki_os_handle(s), HANDLE_FLAG_INHERIT, flags) ? NETKIT_OK
                                                                            : nki_os_error();
}

static int nki_option_get_inherited(uintptr_t s, int *is_closed) {
    DWORD flags = 0;
    if (!NKI_SYS_get_handle(nki_os_handle(s), &flags)) {
        return nki_os_error();
    }
    *is_closed = (flags & HANDLE_FLAG_INHERIT) == 0;
    return NETKIT_OK;
}

/* SO_REUSEADDR shares a port between datagram sockets; of streams it would let anybody take it. */
static int nki_option_set_row(uintptr_t s, const nki_option_row *row, int value) {
    bool is_theft = row->option == NETKIT_OPT_REUSE_ADDR && !nki_os_is_datagram(s);
    if (row->level < 0 || is_theft) {
        return NETKIT_E_NOSYS;
    }
    return row->values == NKI_OPTION_LINGER
               ? nki_option_set_linger(nki_os_fd(s), value)
               : nki_os_set_int(nki_os_fd(s), row->level, row->name, value);
}

static int nki_os_set_option(uintptr_t s, netkit_option option, int value) {
    bool is_flag = option == NETKIT_OPT_BLOCKING || option == NETKIT_OPT_CLOSE_ON_EXEC;
    const nki_option_row *row = nki_option_find(option);
    if (option >= NETKIT_OPT_BROADCAST) {
        return nki_os_set_ip_option(s, option, value);
    }
    if ((row == NULL && !is_flag) ||
        !nki_option_accepts(is_flag ? (int)NKI_OPTION_BOOL : row->values, value)) {
        return NETKIT_E_INVALID;
    }
    if (option == NETKIT_OPT_BLOCKING) {
        return nki_os_set_blocking(nki_os_fd(s), value != 0);
    }
    if (option == NETKIT_OPT_CLOSE_ON_EXEC) {
        return nki_option_set_inherited(s, value == 0);
    }
    return nki_option_set_row(s, row, value);
}

static int nki_option_get_row(uintptr_t s, const nki_option_row *row, int *value) {
    int raw;
    if (row->level < 0) {
        return NETKIT_E_NOSYS;
    }
    if (row->values == NKI_OPTION_LINGER) {
        return nki_option_get_linger(nki_os_fd(s), value);
    }
    int rc = nki_os_get_int(nki_os_fd(s), row->level, row->name, &raw);
    if (rc == NETKIT_OK) {
        *value = row->values == NKI_OPTION_BOOL ? raw != 0 : raw;
    }
    return rc;
}

static int nki_os_get_option(uintptr_t s, netkit_option option, int *value) {
    const nki_option_row *row = nki_option_find(option);
    int error;
    int rc;
    *value = 0;
    if (row != NULL) {
        return nki_option_get_row(s, row, value);
    }
    if (option >= NETKIT_OPT_BROADCAST) {
        return nki_os_get_ip_option(s, option, value);
    }
    switch ((int)option) {
    case NETKIT_OPT_BLOCKING: return NETKIT_E_NOSYS;
    case NETKIT_OPT_CLOSE_ON_EXEC: return nki_option_get_inherited(s, value);
    case NETKIT_OPT_ERROR:
        rc = nki_os_get_int(nki_os_fd(s), SOL_SOCKET, SO_ERROR, &error);
        *value = netkit_error_from_os(error);
        return rc;
    default: return NETKIT_E_INVALID;
    }
}

static int nki_os_set_text(uintptr_t s, netkit_option option, const char *value) {
    NKI_UNUSED(s);
    return option == NETKIT_OPT_CONGESTION && value[0] != '\0' ? NETKIT_E_NOSYS : NETKIT_E_INVALID;
}

static int nki_os_get_text(uintptr_t s, netkit_option option, char *text, size_t size) {
    NKI_UNUSED(s);
    NKI_UNUSED(text);
    NKI_UNUSED(size);
    return option == NETKIT_OPT_CONGESTION ? NETKIT_E_NOSYS : NETKIT_E_INVALID;
}

#endif /* NKI_WINDOWS */

/* ---- src/os/file_posix.c ---- */
/* Files to sockets. Linux's sendfile takes no MSG_NOSIGNAL: to a peer that is gone it raises
 * SIGPIPE (seen on 6.18: ECONNRESET once, then the signal). So the signal is held back on this
 * thread during the call, and one that it raised is taken back; mask and disposition are as before
 * afterwards. macOS and FreeBSD heed SO_NOSIGPIPE. Offsets are 64 bits wide everywhere. */

#if NKI_POSIX

enum {
    /* Bytes of one call: half as many cost 4 % of the rate (loopback, 6.18), more gain nothing and
     * hold up the others of a loop. */
    NKI_FILE_CALL = 1 << 21,
    NKI_FILE_COPY = 16384 /* bytes at a time where the system cannot do it itself */
};

#if NKI_LINUX

/* A SIGPIPE that was blocked and pending before is not ours to take. */
static ssize_t nki_os_sendfile_masked(int s, int file, int64_t *offset, size_t len) {
    sigset_t pipe, before, pending;
    (void)sigemptyset(&pipe);
    (void)sigaddset(&pipe, SIGPIPE);
    (void)NKI_SYS_sigmask(SIG_BLOCK, &pipe, &before);
    bool was_blocked = sigismember(&before, SIGPIPE) == 1;
    bool was_pending =
        was_blocked && NKI_SYS_sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
    ssize_t sent = NKI_SYS_sendfile(s, file, offset, len);
    int error = errno;
    /* Inside it is many sends: one that raises the signal may follow others that went. */
    bool may_be_raised = sent < 0 ? error == EPIPE : (size_t)sent < len;
    if (may_be_raised && !was_pending) {
        struct timespec now = {0, 0};
        while (NKI_SYS_sigtimedwait(&pipe, NULL, &now) < 0 && errno == EINTR) {
        }
    }
    if (!was_blocked) {
        (void)NKI_SYS_sigmask(SIG_UNBLOCK, &pipe, NULL);
    }
    errno = error;
    return sent;
}

static ssize_t nki_os_sendfile(int s, int file, uint64_t offset, size_t len) {
    int64_t at = (int64_t)offset;
    return nki_os_sendfile_masked(s, file, &at, len);
}

#elif NKI_APPLE || defined(__FreeBSD__)

/* What was sent counts, also when the call says that it would have blocked. */
static ssize_t nki_os_sendfile(int s, int file, uint64_t offset, size_t len) {
    off_t sent = 0;
    int rc = NKI_SYS_sendfile(s, file, (off_t)offset, len, &sent);
    return rc < 0 && sent == 0 ? -1 : (ssize_t)sent;
}

#else

static ssize_t nki_os_sendfile(int s, int file, uint64_t offset, size_t len) {
    NKI_UNUSED(s);
    NKI_UNUSED(file);
    NKI_UNUSED(offset);
    NKI_UNUSED(len);
    errno = ENOSYS;
    return -1;
}

#endif

/* Some file systems, and some systems, have no sendfile: the same through a buffer. */
static ssize_t nki_os_copy_file(int s, int file, uint64_t offset, size_t len, int flags) {
    char buffer[NKI_FILE_COPY];
    size_t most = NKI_MIN(len, sizeof buffer);
    ssize_t got;
    do {
        got = NKI_SYS_pread(file, buffer, most, offset);
    } while (got < 0 && errno == EINTR);
    if (got <= 0) {
        return got;
    }
    return NKI_SYS_send(s, buffer, (size_t)got, flags | NKI_MSG_NOSIGNAL);
}

static int nki_os_send_file(uintptr_t s, uintptr_t file, uint64_t offset, uint64_t len,
                            bool is_waiting) {
    size_t most = (size_t)NKI_MIN(len, (uint64_t)NKI_FILE_CALL);
    ssize_t sent;
    if (len == 0) {
        return 0;
    }
    do {
        sent = nki_os_sendfile(nki_os_fd(s), nki_os_fd(file), offset, most);
        if (sent < 0 && (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)) {
            int flags = is_waiting ? 0 : MSG_DONTWAIT;
            sent = nki_os_copy_file(nki_os_fd(s), nki_os_fd(file), offset, most, flags);
        }
    } while (sent < 0 && errno == EINTR);
    if (sent > 0) {
        return (int)sent;
    }
    if (sent == 0) {
        errno = 0; /* the file has become shorter: nobody's error but the stream's */
        return NETKIT_E_TRUNCATED;
    }
    return nki_os_send_error();
}

static int nki_os_file_size(uintptr_t file, uint64_t *out) {
    struct stat st;
    *out = 0;
    if (NKI_SYS_fstat(nki_os_fd(file), &st) != 0) {
        return nki_os_error();
    }
    if (!S_ISREG(st.st_mode)) {
        return NETKIT_E_INVALID;
    }
    *out = (uint64_t)st.st_size;
    return NETKIT_OK;
}

#endif /* NKI_POSIX */

/* ---- src/os/file_windows.c ---- */
/* Files to sockets on Windows, through a buffer: TransmitFile is an overlapped call that a loop
 * would have to wait for, and a workstation runs two of them at a time.
 *
 * A file is a HANDLE. Reading at an offset moves the position of a file, so the loop opens the file
 * once more for itself, and a plain socket puts the position back. */

#if NKI_WINDOWS

enum {
    NKI_FILE_COPY = 16384 /* bytes at a time */
};

/* One that was opened for overlapped calls answers later: it is waited for, as a disk may be. */
static int nki_file_read(HANDLE file, void *out, size_t len, uint64_t offset) {
    OVERLAPPED at;
    DWORD got = 0;
    memset(&at, 0, sizeof at);
    at.Offset = (DWORD)(offset & 0xFFFFFFFFu);
    at.OffsetHigh = (DWORD)(offset >> 32);
    if (NKI_SYS_pread(file, out, len, &got, &at) ||
        (nki_os_code() == ERROR_IO_PENDING && NKI_SYS_pread_result(file, &at, &got))) {
        return (int)got;
    }
    return nki_os_code() == ERROR_HANDLE_EOF ? 0 : nki_os_error();
}

static int nki_file_read_in_place(HANDLE file, void *out, size_t len, uint64_t offset) {
    LARGE_INTEGER nothing;
    LARGE_INTEGER position;
    nothing.QuadPart = 0;
    bool has_position = NKI_SYS_seek(file, nothing, &position, FILE_CURRENT) != 0;
    int n = nki_file_read(file, out, len, offset);
    if (has_position) {
        int os_code = nki_os_code();
        (void)NKI_SYS_seek(file, position, NULL, FILE_BEGIN);
        WSASetLastError(os_code);
    }
    return n;
}

static int nki_os_send_file(uintptr_t s, uintptr_t file, uint64_t offset, uint64_t len,
                            bool is_waiting) {
    char buffer[NKI_FILE_COPY];
    size_t most = (size_t)NKI_MIN(len, (uint64_t)sizeof buffer);
    if (len == 0) {
        return 0;
    }
    int n = nki_file_read_in_place(nki_os_handle(file), buffer, most, offset);
    if (n <= 0) {
        (void)(n == 0 ? nki_os_fail(0) : n); /* shorter: nobody's error but the stream's */
        return n < 0 ? n : (int)NETKIT_E_TRUNCATED;
    }
    return is_waiting ? nki_os_send_flags(s, buffer, (size_t)n, 0)
                      : nki_os_send_now(s, buffer, (size_t)n);
}

static int nki_os_file_size(uintptr_t file, uint64_t *out) {
    BY_HANDLE_FILE_INFORMATION info;
    *out = 0;
    DWORD type = NKI_SYS_file_type(nki_os_handle(file));
    if (type == FILE_TYPE_UNKNOWN && nki_os_code() != 0) {
        return nki_os_error();
    }
    if (type != FILE_TYPE_DISK) {
        return NETKIT_E_INVALID;
    }
    if (!NKI_SYS_file_id(nki_os_handle(file), &info)) {
        return nki_os_error();
    }
    if ((info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0) {
        return NETKIT_E_INVALID;
    }
    *out = (uint64_t)info.nFileSizeHigh << 32 | info.nFileSizeLow;
    return NETKIT_OK;
}

/* With a position of its own, where the file can be opened once more. */
static int nki_os_dup_file(uintptr_t file, uintptr_t *out) {
    HANDLE own = NKI_SYS_reopen(nki_os_handle(file));
    *out = UINTPTR_MAX;
    if (own == INVALID_HANDLE_VALUE && !NKI_SYS_dup(nki_os_handle(file), &own)) {
        return nki_os_error();
    }
    *out = (uintptr_t)own;
    return NETKIT_OK;
}

/* Of anything else nobody asks: descriptors are not handed over here. */
static int nki_os_dup(uintptr_t native, uintptr_t *out) {
    NKI_UNUSED(native);
    *out = UINTPTR_MAX;
    return NETKIT_E_NOSYS;
}

#endif /* NKI_WINDOWS */

/* ---- src/os/unix_posix.c ---- */
/* Unix sockets on POSIX: their files, and who is at the other end.
 *
 * Whether a socket's file is left over is asked by connecting a socket of another type, datagrams:
 * a file that no socket is bound to refuses (ECONNREFUSED), a socket of streams that is alive says
 * EPROTOTYPE, listening already or not yet, and one of datagrams takes it. So a server between
 * bind and listen is not taken for dead, and one that is alive finds no stranger in its backlog
 * (Linux unix_find_bsd, the BSDs' unp_connectat). Where it cannot be told nothing is removed.
 * Which file a socket made is known by device and inode. The system keeps a file's inode for as
 * long as the socket is bound to it, so until it is closed no other file can have that number.
 * No call here follows a symbolic link in the last place of a path. */

#if NKI_POSIX

#if NKI_APPLE
#define NKI_CHANGED(st) (st).st_ctimespec
#else
#define NKI_CHANGED(st) (st).st_ctim
#endif

/* The path of an address as the system's calls want it. */
typedef struct nki_path {
    char text[NETKIT_UNIX_PATH_MAX + 1];
} nki_path;

static bool nki_path_of(nki_path *out, const netkit_addr *addr) {
    memset(out, 0, sizeof *out);
    if (addr->family != NETKIT_AF_UNIX || addr->is_abstract || addr->path_len == 0 ||
        addr->path_len > NETKIT_UNIX_PATH_MAX) {
        return false;
    }
    memcpy(out->text, addr->path, addr->path_len);
    return true;
}

static int nki_path_look(const nki_path *path, struct stat *st) {
    int rc;
    do {
        rc = NKI_SYS_lstat(path->text, st);
    } while (rc != 0 && errno == EINTR);
    return rc != 0 ? nki_os_error() : NETKIT_OK;
}

static bool nki_path_is_same(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool nki_path_is_unchanged(const struct stat *a, const struct stat *b) {
    return nki_path_is_same(a, b) && NKI_CHANGED(*a).tv_sec == NKI_CHANGED(*b).tv_sec &&
           NKI_CHANGED(*a).tv_nsec == NKI_CHANGED(*b).tv_nsec;
}

/* ---- left over? ---- */

static int nki_unix_in_use(void) {
    errno = EADDRINUSE;
    return NETKIT_E_ADDRINUSE;
}

/* NETKIT_OK: a socket is bound there; NETKIT_E_REFUSED: none is; else it cannot be told. */
static int nki_unix_probe(const netkit_addr *addr) {
    struct sockaddr_storage sa;
    socklen_t len;
    uintptr_t s;
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc == NETKIT_OK) {
        rc = nki_os_socket(NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, false, &s);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    do {
        rc = NKI_SYS_connect(nki_os_fd(s), (const struct sockaddr *)(const void *)&sa, len);
    } while (rc != 0 && errno == EINTR);
    /* EPERM: one of datagrams that talks to another peer alone. */
    bool is_alive = rc == 0 || errno == EPROTOTYPE || errno == EPERM;
    rc = is_alive ? (int)NETKIT_OK : nki_os_error();
    nki_os_abandon(s);
    return rc;
}

/* Remove a socket's file that nobody has bound. NETKIT_OK: the path is free. */
static int nki_unix_clear(const nki_path *path, const netkit_addr *addr) {
    struct stat before;
    struct stat now;
    int rc = nki_path_look(path, &before);
    if (rc != NETKIT_OK) {
        return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
    }
    rc = S_ISSOCK(before.st_mode) ? nki_unix_probe(addr) : (int)NETKIT_OK;
    if (rc != NETKIT_E_REFUSED) {
        return rc == NETKIT_OK ? nki_unix_in_use() : rc;
    }
    rc = nki_path_look(path, &now);
    if (rc != NETKIT_OK) {
        return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
    }
    /* Somebody may have done the same meanwhile, and been given the same inode again. */
    if (!nki_path_is_unchanged(&before, &now)) {
        return nki_unix_in_use();
    }
    rc = NKI_SYS_unlink(path->text) != 0 ? nki_os_error() : (int)NETKIT_OK;
    return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
}

/* ---- mode ---- */

/* Permissions that the umask took away are given back. By way of a descriptor on Linux, as chmod
 * follows links; the BSDs have a call that does not. */
static int nki_unix_widen(const nki_path *path, const struct stat *st, uint32_t mode) {
#if NKI_LINUX
    struct stat opened;
    int fd;
    do {
        fd = NKI_SYS_open(path->text, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return nki_os_error();
    }
    int rc = NKI_SYS_fstat(fd, &opened) != 0 ? nki_os_error() : (int)NETKIT_OK;
    if (rc == NETKIT_OK && !nki_path_is_same(st, &opened)) {
        rc = NETKIT_E_STALE;
    }
    if (rc == NETKIT_OK) {
        char link[32];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        rc = NKI_SYS_chmod(link, (mode_t)mode) != 0 ? nki_os_error() : (int)NETKIT_OK;
        rc = rc == NETKIT_E_NOTFOUND ? (int)NETKIT_E_NOSYS : rc; /* no /proc here */
    }
    nki_os_abandon((uintptr_t)fd);
    return rc;
#else
    NKI_UNUSED(st);
    return NKI_SYS_lchmod(path->text, (mode_t)mode) != 0 ? nki_os_error() : NETKIT_OK;
#endif
}

/* Until listen nobody can connect, so what is granted late is granted in time; what is denied must
 * be denied from the start only where the file is made with more than that: Linux makes it with
 * the mode of the socket, less the umask (unix_bind_bsd). */
static int nki_unix_narrow(uintptr_t s, uint32_t mode) {
#if NKI_LINUX
    return NKI_SYS_fchmod(nki_os_fd(s), (mode_t)mode) != 0 ? nki_os_error() : NETKIT_OK;
#else
    NKI_UNUSED(s);
    NKI_UNUSED(mode);
    return NETKIT_OK;
#endif
}

/* ---- binding ---- */

static int nki_unix_bind(uintptr_t s, const netkit_addr *addr, const nki_path *path, int flags) {
    struct sockaddr_storage sa;
    socklen_t len;
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc != NETKIT_OK) {
        return rc;
    }
    const struct sockaddr *at = (const struct sockaddr *)(const void *)&sa;
    rc = NKI_SYS_bind(nki_os_fd(s), at, len) != 0 ? nki_os_error() : (int)NETKIT_OK;
    if (rc == NETKIT_E_ADDRINUSE && (flags & NETKIT_SOCKET_REPLACE) != 0) {
        rc = nki_unix_clear(path, addr);
        if (rc == NETKIT_OK) {
            rc = NKI_SYS_bind(nki_os_fd(s), at, len) != 0 ? nki_os_error() : (int)NETKIT_OK;
        }
    }
    return rc;
}

/* A socket bound to a path: which file that is, with the right mode. When the system does not say
 * which, its file is left alone for ever. */
static int nki_unix_made(const nki_path *path, const netkit_addr *addr, uint32_t mode,
                         netkit_unix_file *file) {
    struct stat st;
    int rc = nki_path_look(path, &st);
    if (rc != NETKIT_OK) {
        rc = nki_path_look(path, &st); /* so much depends on it that bad luck is tried twice */
    }
    bool is_known = rc == NETKIT_OK && S_ISSOCK(st.st_mode);
    if (is_known) {
        file->device = (uint64_t)st.st_dev;
        file->inode = (uint64_t)st.st_ino;
        file->addr = *addr;
    }
    if (mode == 0) {
        return NETKIT_OK;
    }
    if (is_known && (st.st_mode & 0777) != (mode_t)mode) {
        rc = nki_unix_widen(path, &st, mode);
    }
    return is_known || rc != NETKIT_OK ? rc : (int)NETKIT_E_STALE;
}

static int nki_os_bind_unix(uintptr_t s, const netkit_addr *addr, int flags, uint32_t mode,
                            netkit_unix_file *file) {
    nki_path path;
    memset(file, 0, sizeof *file);
    if (!nki_path_of(&path, addr)) {
        return nki_os_bind(s, addr, flags & ~NETKIT_SOCKET_REPLACE);
    }
    if ((flags & NETKIT_SOCKET_REUSE_PORT) != 0) {
        return NETKIT_E_NOSYS; /* Linux before 6.12 would say yes and mean nothing by it */
    }
    int rc = mode != 0 ? nki_unix_narrow(s, mode) : (int)NETKIT_OK;
    if (rc == NETKIT_OK) {
        rc = nki_unix_bind(s, addr, &path, flags);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_unix_made(&path, addr, mode, file);
    if (rc != NETKIT_OK) {
        nki_os_undo_unix(file);
    }
    return rc;
}

static int nki_os_unlink_unix(const netkit_unix_file *file) {
    nki_path path;
    struct stat st;
    if ((file->device == 0 && file->inode == 0) || !nki_path_of(&path, &file->addr)) {
        return NETKIT_OK;
    }
    int rc = nki_path_look(&path, &st);
    if (rc != NETKIT_OK) {
        return rc;
    }
    bool is_ours = S_ISSOCK(st.st_mode) && (uint64_t)st.st_dev == file->device &&
                   (uint64_t)st.st_ino == file->inode;
    if (!is_ours) {
        return NETKIT_E_STALE;
    }
    return NKI_SYS_unlink(path.text) != 0 ? nki_os_error() : NETKIT_OK;
}

/* On the way out of a failure, whose code is kept. */
static void nki_os_undo_unix(netkit_unix_file *file) {
    int os_code = errno;
    (void)nki_os_unlink_unix(file);
    memset(file, 0, sizeof *file);
    errno = os_code;
}

static int nki_os_temp_folder(char *out, size_t size) {
    static const char folder[] = "/tmp";
    if (size < sizeof folder) {
        return NETKIT_E_TOOBIG;
    }
    memcpy(out, folder, sizeof folder);
    return NETKIT_OK;
}

/* ---- who ---- */

#if NKI_LINUX
/* A process in a namespace we cannot see has the number 0; without a peer the user is -1. */
static netkit_credentials nki_os_credentials_of(const struct ucred *who) {
    netkit_credentials c;
    c.pid = who->pid > 0 ? (int64_t)who->pid : -1;
    c.uid = who->uid != (uid_t)-1 ? (int64_t)who->uid : -1;
    c.gid = who->gid != (gid_t)-1 ? (int64_t)who->gid : -1;
    return c;
}

static int nki_os_ask_credentials(int fd, netkit_credentials *out) {
    struct ucred who;
    socklen_t len = (socklen_t)sizeof who;
    memset(&who, 0xFF, sizeof who);
    if (NKI_SYS_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) != 0) {
        return nki_os_error();
    }
    *out = nki_os_credentials_of(&who);
    return out->uid < 0 && out->pid < 0 ? (int)NETKIT_E_NOTCONN : (int)NETKIT_OK;
}
#else
/* The process, where there is a way to ask for it. */
static int64_t nki_os_peer_process(int fd) {
#if defined(LOCAL_PEERPID)
    pid_t pid = -1;
    socklen_t len = (socklen_t)sizeof pid;
    int rc = NKI_SYS_getsockopt(fd, 0 /* SOL_LOCAL */, LOCAL_PEERPID, &pid, &len);
    return rc == 0 && pid > 0 ? (int64_t)pid : -1;
#elif defined(__OpenBSD__)
    struct sockpeercred who;
    socklen_t len = (socklen_t)sizeof who;
    int rc = NKI_SYS_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len);
    return rc == 0 ? (int64_t)who.pid : -1;
#else
    NKI_UNUSED(fd);
    return -1;
#endif
}

static int nki_os_ask_credentials(int fd, netkit_credentials *out) {
    uid_t uid;
    gid_t gid;
    if (NKI_SYS_getpeereid(fd, &uid, &gid) != 0) {
        return nki_os_error();
    }
    out->pid = nki_os_peer_process(fd);
    out->uid = (int64_t)uid;
    out->gid = (int64_t)gid;
    return NETKIT_OK;
}
#endif

static int nki_os_credentials(uintptr_t s, netkit_credentials *out) {
    netkit_addr self;
    out->pid = out->uid = out->gid = -1;
    int rc = nki_os_local(s, &self);
    if (rc == NETKIT_OK && self.family != NETKIT_AF_UNIX) {
        rc = NETKIT_E_NOSYS;
    }
    return rc != NETKIT_OK ? rc : nki_os_ask_credentials(nki_os_fd(s), out);
}

/* ---- duplicates ---- */

static int nki_os_dup(uintptr_t native, uintptr_t *out) {
    int fd = NKI_SYS_fcntl(nki_os_fd(native), F_DUPFD_CLOEXEC, 0);
    *out = fd < 0 ? UINTPTR_MAX : (uintptr_t)fd;
    return fd < 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_dup_file(uintptr_t file, uintptr_t *out) {
    return nki_os_dup(file, out);
}

#endif /* NKI_POSIX */

/* ---- src/os/unix_windows.c ---- */
/* Unix sockets on Windows 10 and later: their files, and who is at the other end.
 *
 * Streams only, paths only. A system without them says so when a socket is opened
 * (WSAEAFNOSUPPORT). The file is a reparse point of a kind of its own; which one a socket made is
 * known by volume and index, and no call here follows it. Permissions are those of its folder.
 * Whether a file is left over is asked by connecting a stream: where nobody listens that is
 * refused. A server between bind and listen refuses, too, and one that is alive finds a stranger
 * that is gone in its backlog: there is no better question here. */

#if NKI_WINDOWS

#define NKI_SIO_AF_UNIX_GETPEERPID _WSAIOR(IOC_VENDOR, 256)
#define NKI_REPARSE_AF_UNIX 0x80000023u

/* The path of an address as the system's calls want it. */
typedef struct nki_path {
    wchar_t text[NETKIT_UNIX_PATH_MAX + 1];
} nki_path;

/* What is known of a file. */
typedef struct nki_path_info {
    uint64_t device;
    uint64_t inode;
    uint64_t created;
    bool is_socket;
} nki_path_info;

static bool nki_path_of(nki_path *out, const netkit_addr *addr) {
    memset(out, 0, sizeof *out);
    if (addr->family != NETKIT_AF_UNIX || addr->is_abstract || addr->path_len == 0 ||
        addr->path_len > NETKIT_UNIX_PATH_MAX) {
        return false;
    }
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, addr->path, addr->path_len, out->text,
                               NETKIT_UNIX_PATH_MAX) > 0;
}

static int nki_path_look(const nki_path *path, nki_path_info *out) {
    BY_HANDLE_FILE_INFORMATION info;
    FILE_ATTRIBUTE_TAG_INFO tag;
    memset(out, 0, sizeof *out);
    HANDLE file = NKI_SYS_open(path->text, FILE_READ_ATTRIBUTES,
                               FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS);
    if (file == INVALID_HANDLE_VALUE) {
        return nki_os_error();
    }
    bool is_known = NKI_SYS_file_id(file, &info) && NKI_SYS_file_tag(file, &tag);
    int rc = is_known ? (int)NETKIT_OK : nki_os_error();
    nki_os_abandon_file((uintptr_t)file);
    if (is_known) {
        out->device = info.dwVolumeSerialNumber;
        out->inode = (uint64_t)info.nFileIndexHigh << 32 | info.nFileIndexLow;
        out->created =
            (uint64_t)info.ftCreationTime.dwHighDateTime << 32 | info.ftCreationTime.dwLowDateTime;
        out->is_socket = (tag.FileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) != 0 &&
                         tag.ReparseTag == NKI_REPARSE_AF_UNIX;
    }
    return rc;
}

static int nki_path_remove(const nki_path *path) {
    return NKI_SYS_unlink(path->text) ? NETKIT_OK : nki_os_error();
}

/* ---- left over? ---- */

static int nki_unix_in_use(void) {
    return nki_os_fail(WSAEADDRINUSE);
}

/* NETKIT_OK: somebody listens there; NETKIT_E_REFUSED: nobody does; else it cannot be told. */
static int nki_unix_probe(const netkit_addr *addr) {
    uintptr_t s;
    int rc = nki_os_socket(NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, false, &s);
    if (rc == NETKIT_OK) {
        rc = nki_os_connect(s, addr);
        rc = rc == NETKIT_E_AGAIN ? (int)NETKIT_OK : rc;
        nki_os_abandon(s);
    }
    return rc;
}

/* Remove a socket's file that nobody has bound. NETKIT_OK: the path is free. */
static int nki_unix_clear(const nki_path *path, const netkit_addr *addr) {
    nki_path_info before;
    nki_path_info now;
    int rc = nki_path_look(path, &before);
    if (rc != NETKIT_OK) {
        return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
    }
    rc = before.is_socket ? nki_unix_probe(addr) : (int)NETKIT_OK;
    if (rc != NETKIT_E_REFUSED) {
        return rc == NETKIT_OK ? nki_unix_in_use() : rc;
    }
    rc = nki_path_look(path, &now);
    if (rc != NETKIT_OK) {
        return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
    }
    /* Somebody may have done the same meanwhile. */
    if (before.device != now.device || before.inode != now.inode || before.created != now.created) {
        return nki_unix_in_use();
    }
    rc = nki_path_remove(path);
    return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
}

/* ---- binding ---- */

/* When the system does not say which file was made, it is left alone for ever. */
static void nki_unix_made(const nki_path *path, const netkit_addr *addr, netkit_unix_file *file) {
    nki_path_info info;
    if (nki_path_look(path, &info) == NETKIT_OK && info.is_socket) {
        file->device = info.device;
        file->inode = info.inode;
        file->addr = *addr;
    }
}

static int nki_os_bind_unix(uintptr_t s, const netkit_addr *addr, int flags, uint32_t mode,
                            netkit_unix_file *file) {
    int plain = flags & ~NETKIT_SOCKET_REPLACE;
    nki_path path;
    memset(file, 0, sizeof *file);
    if (!nki_path_of(&path, addr)) {
        return nki_os_bind(s, addr, plain);
    }
    if (mode != 0) {
        return NETKIT_E_NOSYS;
    }
    int rc = nki_os_bind(s, addr, plain);
    if (rc == NETKIT_E_ADDRINUSE && plain != flags) {
        rc = nki_unix_clear(&path, addr);
        rc = rc == NETKIT_OK ? nki_os_bind(s, addr, plain) : rc;
    }
    if (rc == NETKIT_OK) {
        nki_unix_made(&path, addr, file);
    }
    return rc;
}

static int nki_os_unlink_unix(const netkit_unix_file *file) {
    nki_path path;
    nki_path_info info;
    if ((file->device == 0 && file->inode == 0) || !nki_path_of(&path, &file->addr)) {
        return NETKIT_OK;
    }
    int rc = nki_path_look(&path, &info);
    if (rc != NETKIT_OK) {
        return rc;
    }
    bool is_ours = info.is_socket && info.device == file->device && info.inode == file->inode;
    return is_ours ? nki_path_remove(&path) : (int)NETKIT_E_STALE;
}

/* On the way out of a failure, whose code is kept. */
static void nki_os_undo_unix(netkit_unix_file *file) {
    int os_code = nki_os_code();
    (void)nki_os_unlink_unix(file);
    memset(file, 0, sizeof *file);
    WSASetLastError(os_code);
}

/* The user's own. Its name ends in a backslash. */
static int nki_os_temp_folder(char *out, size_t size) {
    wchar_t wide[MAX_PATH + 2];
    DWORD len = NKI_SYS_temp_folder(wide, MAX_PATH + 1);
    if (len == 0) {
        return nki_os_error();
    }
    if (len > MAX_PATH ||
        WideCharToMultiByte(CP_UTF8, 0, wide, (int)len + 1, out, (int)size, NULL, NULL) == 0) {
        return NETKIT_E_TOOBIG;
    }
    return NETKIT_OK;
}

/* ---- who ---- */

/* The process alone: users are no numbers here. */
static int nki_os_credentials(uintptr_t s, netkit_credentials *out) {
    int family;
    ULONG pid = 0;
    DWORD got = 0;
    out->pid = out->uid = out->gid = -1;
    int rc = nki_os_family(s, &family);
    if (rc == NETKIT_OK && family != NETKIT_AF_UNIX) {
        rc = NETKIT_E_NOSYS;
    }
    if (rc == NETKIT_OK && NKI_SYS_control(nki_os_fd(s), NKI_SIO_AF_UNIX_GETPEERPID, NULL, 0, &pid,
                                           (DWORD)sizeof pid, &got) != 0) {
        rc = nki_os_error();
    }
    if (rc == NETKIT_OK) {
        out->pid = (int64_t)pid;
    }
    return rc;
}

#endif /* NKI_WINDOWS */

/* ---- src/os/message_posix.c ---- */
/* Messages on POSIX: sendmsg and recvmsg with all that can go beside bytes.
 *
 * Descriptors in a message that was received are open in this process whether or not anybody looks
 * at them: so the room for them is always the most that can come, and what the caller has no room
 * for is closed here. Then only the system itself can lose some (MSG_CTRUNC: the process's table
 * is full), and it closes those. They are close-on-exec from the start where the system can say
 * so (MSG_CMSG_CLOEXEC; not on macOS, where another thread's program may inherit one).
 * A stream carries descriptors with the first byte of a send, so one of 0 bytes would lose them in
 * silence (seen on Linux): it is refused. */

#if NKI_POSIX

#if defined(MSG_CMSG_CLOEXEC)
#define NKI_MSG_CMSG_CLOEXEC MSG_CMSG_CLOEXEC
#else
#define NKI_MSG_CMSG_CLOEXEC 0
#endif

#if NKI_LINUX && defined(SCM_CREDENTIALS)
#define NKI_HAS_SCM_CREDENTIALS 1
#else
#define NKI_HAS_SCM_CREDENTIALS 0
#endif

/* Room for the most descriptors, credentials, and what else may come; aligned for cmsghdr. */
typedef union nki_control {
    struct cmsghdr align;
    unsigned char
        bytes[CMSG_SPACE(NETKIT_FDS_MAX * sizeof(int)) + CMSG_SPACE(64) + NETKIT_CONTROL_MAX];
} nki_control;

/* More than INT_MAX bytes at once is EINVAL to the BSDs: what is beyond is left for the next
 * call, as after any short transfer. Returns the pieces used, which fit msg_iovlen whatever its
 * type. */
static uint8_t nki_os_iov(struct iovec *iov, const netkit_span *spans, size_t count, size_t most) {
    uint8_t used = 0;
    for (; used < count && most > 0; used++) {
        size_t len = NKI_MIN(spans[used].len, most);
        /* Of spans the system only reads, but iovec has no const. */
        memcpy(&iov[used].iov_base, &spans[used].data, sizeof iov[used].iov_base);
        iov[used].iov_len = len;
        most -= len;
    }
    return used;
}

static uint8_t nki_os_iov_rooms(struct iovec *iov, const netkit_room *rooms, size_t count) {
    size_t most = NKI_CLIP(recvmsg, (size_t)INT_MAX);
    uint8_t used = 0;
    for (; used < count && most > 0; used++) {
        iov[used].iov_base = rooms[used].data;
        iov[used].iov_len = NKI_MIN(rooms[used].len, most);
        most -= iov[used].iov_len;
    }
    return used;
}

static int nki_os_sendmsg(uintptr_t s, const struct msghdr *msg, int flags) {
    ssize_t sent;
    do {
        sent = NKI_SYS_sendmsg(nki_os_fd(s), msg, flags | NKI_MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0 ? (int)sent : nki_os_send_error();
}

static ssize_t nki_os_recvmsg(uintptr_t s, struct msghdr *msg, int flags) {
    ssize_t got;
    do {
        got = NKI_SYS_recvmsg(nki_os_fd(s), msg, flags | NKI_MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    return got;
}

static int nki_os_sendv(uintptr_t s, const netkit_span *spans, size_t count, int flags) {
    struct iovec iov[NETKIT_SPANS_MAX];
    struct msghdr msg;
    if (count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    memset(&msg, 0, sizeof(msg));
    msg.msg_iov = iov;
    msg.msg_iovlen = nki_os_iov(iov, spans, count, NKI_CLIP(sendmsg, (size_t)INT_MAX));
    return nki_os_sendmsg(s, &msg, flags);
}

static int nki_os_sendv_now(uintptr_t s, const netkit_span *spans, size_t count) {
    return nki_os_sendv(s, spans, count, MSG_DONTWAIT);
}

static int nki_os_recvv(uintptr_t s, const netkit_room *rooms, size_t count, int flags) {
    struct iovec iov[NETKIT_SPANS_MAX];
    struct msghdr msg;
    size_t room = 0;
    if (count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    memset(&msg, 0, sizeof(msg));
    msg.msg_iov = iov;
    msg.msg_iovlen = nki_os_iov_rooms(iov, rooms, count);
    for (size_t i = 0; i < count && room == 0; i++) {
        room = rooms[i].len;
    }
    return nki_os_recv_result(nki_os_recvmsg(s, &msg, flags), room);
}

static int nki_os_recvv_now(uintptr_t s, const netkit_room *rooms, size_t count) {
    return nki_os_recvv(s, rooms, count, MSG_DONTWAIT);
}

/* ---- out ---- */

/* Put descriptors into the control buffer. Returns its length. */
static int nki_control_fds(nki_control *control, const uintptr_t *fds, size_t count, size_t *len) {
    struct cmsghdr *head = &control->align;
    size_t size = count * sizeof(int);
    *len = 0;
    if (count == 0) {
        return NETKIT_OK;
    }
    memset(control->bytes, 0, CMSG_SPACE(size));
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = (socklen_t)CMSG_LEN(size);
    for (size_t i = 0; i < count; i++) {
        int fd = nki_os_fd(fds[i]);
        if (fd < 0) {
            errno = EBADF;
            return NETKIT_E_INVALID;
        }
        memcpy(CMSG_DATA(head) + i * sizeof fd, &fd, sizeof fd);
    }
    *len = CMSG_SPACE(size);
    return NETKIT_OK;
}

static bool nki_os_is_empty(const netkit_span *spans, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (spans[i].len != 0) {
            return false;
        }
    }
    return true;
}

/* What can be known to be wrong without asking the system. */
static int nki_os_check_out(uintptr_t s, const netkit_message_out *out) {
    if (out->spans_count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    if (out->fds_count > NETKIT_FDS_MAX || out->control_len > NETKIT_CONTROL_MAX) {
        return NETKIT_E_TOOBIG;
    }
    bool is_lost = out->fds_count + out->control_len != 0 &&
                   nki_os_is_empty(out->spans, out->spans_count) && !nki_os_is_datagram(s);
    return is_lost ? NETKIT_E_INVALID : NETKIT_OK;
}

static int nki_os_send_msg(uintptr_t s, const netkit_message_out *out) {
    struct iovec iov[NETKIT_SPANS_MAX];
    struct sockaddr_storage sa;
    struct msghdr msg;
    nki_control control;
    socklen_t sa_len = 0;
    size_t len = 0;
    int rc = nki_os_check_out(s, out);
    if (rc == NETKIT_OK && out->to != NULL) {
        rc = nki_sockaddr_from(&sa, &sa_len, out->to);
    }
    if (rc == NETKIT_OK) {
        rc = nki_control_fds(&control, out->fds, out->fds_count, &len);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (out->control_len != 0) {
        memcpy(control.bytes + len, out->control, out->control_len);
        len += out->control_len;
    }
    memset(&msg, 0, sizeof(msg));
    msg.msg_name = out->to != NULL ? &sa : NULL;
    msg.msg_namelen = sa_len;
    msg.msg_iov = iov;
    msg.msg_iovlen =
        nki_os_iov(iov, out->spans, out->spans_count, NKI_CLIP(sendmsg, (size_t)INT_MAX));
    msg.msg_control = len != 0 ? control.bytes : NULL;
    msg.msg_controllen = (socklen_t)len;
    return nki_os_sendmsg(s, &msg, 0);
}

/* One span with descriptors, for drivers. */
static int nki_os_send_fds(uintptr_t s, const void *data, size_t len, const uintptr_t *fds,
                           size_t count) {
    netkit_message_out out;
    netkit_span span;
    memset(&out, 0, sizeof(out));
    span.data = data;
    span.len = len;
    out.spans = &span;
    out.spans_count = 1;
    out.fds = fds;
    out.fds_count = count;
    return nki_os_send_msg(s, &out);
}

/* ---- in ---- */

/* Keep a descriptor that came, or close it when there is no room. */
static void nki_os_take_fd(netkit_message_in *in, int fd) {
    bool is_room = in->fds_count < in->fds_max;
#if !defined(MSG_CMSG_CLOEXEC)
    is_room = is_room && NKI_SYS_fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
#endif
    if (is_room) {
        in->fds[in->fds_count++] = (uintptr_t)fd;
    } else {
        in->is_fds_cut = true;
        nki_os_abandon((uintptr_t)fd);
    }
}

/* What is behind a head, as CMSG_DATA says, which takes the const away. */
static const unsigned char *nki_cmsg_data(const struct cmsghdr *head) {
    return (const unsigned char *)head + CMSG_LEN(0);
}

#if NKI_HAS_SCM_CREDENTIALS
static void nki_os_take_credentials(netkit_message_in *in, const struct cmsghdr *head) {
    struct ucred who;
    memcpy(&who, nki_cmsg_data(head), sizeof who);
    in->sender = nki_os_credentials_of(&who);
}
#endif

/* The caller's: as the system wrote it, head and all, with the room that keeps the next in line. */
static void nki_os_take_other(netkit_message_in *in, const struct cmsghdr *head, size_t len) {
    size_t space = CMSG_SPACE(len);
    if (space > in->control_max - in->control_len) {
        in->is_control_cut = true;
        return;
    }
    memset((char *)in->control + in->control_len, 0, space);
    memcpy((char *)in->control + in->control_len, head, CMSG_LEN(len));
    in->control_len += space;
}

static void nki_os_take_one(netkit_message_in *in, const struct cmsghdr *head, size_t len) {
    bool is_socket = head->cmsg_level == SOL_SOCKET;
    if (is_socket && head->cmsg_type == SCM_RIGHTS) {
        for (size_t at = 0; at + sizeof(int) <= len; at += sizeof(int)) {
            int fd;
            memcpy(&fd, nki_cmsg_data(head) + at, sizeof fd);
            nki_os_take_fd(in, fd);
        }
        return;
    }
#if NKI_HAS_SCM_CREDENTIALS
    if (is_socket && head->cmsg_type == SCM_CREDENTIALS && len >= sizeof(struct ucred)) {
        nki_os_take_credentials(in, head);
        return;
    }
#endif
    nki_os_take_other(in, head, len);
}

/* By hand, since CMSG_NXTHDR does not compile everywhere without a warning (musl), and what was cut
 * may claim to be longer than it is (the BSDs). */
static void nki_os_take_control(netkit_message_in *in, const nki_control *control,
                                size_t control_len) {
    size_t at = 0;
    while (at + sizeof(struct cmsghdr) <= control_len) {
        const struct cmsghdr *head = (const struct cmsghdr *)(const void *)(control->bytes + at);
        size_t len = NKI_MIN((size_t)head->cmsg_len, control_len - at);
        if (len < CMSG_LEN(0)) {
            return;
        }
        nki_os_take_one(in, head, len - CMSG_LEN(0));
        at += CMSG_SPACE(len - CMSG_LEN(0));
    }
}

static bool nki_os_has_room(const netkit_room *rooms, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (rooms[i].len != 0) {
            return true;
        }
    }
    return false;
}

static int nki_os_recv_msg(uintptr_t s, netkit_message_in *in) {
    struct iovec iov[NETKIT_SPANS_MAX];
    struct sockaddr_storage sa;
    struct msghdr msg;
    nki_control control;
    nki_os_forget_in(in);
    if (in->rooms_count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    memset(&msg, 0, sizeof(msg));
    memset(&sa, 0, sizeof(sa));
    msg.msg_name = &sa;
    msg.msg_namelen = (socklen_t)sizeof(sa);
    msg.msg_iov = iov;
    msg.msg_iovlen = nki_os_iov_rooms(iov, in->rooms, in->rooms_count);
    msg.msg_control = control.bytes;
    msg.msg_controllen = (socklen_t)sizeof(control.bytes);
    ssize_t got = nki_os_recvmsg(s, &msg, 0);
    if (got < 0) {
        return nki_os_recv_result(got, 0);
    }
    nki_sockaddr_to(&in->from, &sa, msg.msg_namelen);
    nki_os_take_control(in, &control, (size_t)msg.msg_controllen);
    in->is_cut = (msg.msg_flags & MSG_TRUNC) != 0;
    if ((msg.msg_flags & MSG_CTRUNC) != 0) {
        in->is_fds_cut = true; /* there was room here for all of them: the process had none */
    }
    bool is_end = got == 0 && nki_os_has_room(in->rooms, in->rooms_count) && !nki_os_is_datagram(s);
    return is_end ? (int)NETKIT_E_EOF : (int)got;
}

/* For drivers: one span, with room for all descriptors that can come. NETKIT_E_TRUNCATED when some
 * are lost; those that came are closed then. */
static int nki_os_recv_fds(uintptr_t s, void *data, size_t len, uintptr_t *fds, size_t *count) {
    netkit_message_in in;
    netkit_room room;
    memset(&in, 0, sizeof(in));
    room.data = data;
    room.len = len;
    in.rooms = &room;
    in.rooms_count = 1;
    in.fds = fds;
    in.fds_max = NETKIT_FDS_MAX;
    int rc = nki_os_recv_msg(s, &in);
    if (rc >= 0 && in.is_fds_cut) {
        while (in.fds_count > 0) {
            nki_os_abandon(fds[--in.fds_count]);
        }
        rc = NETKIT_E_TRUNCATED;
    }
    *count = in.fds_count;
    return rc;
}

#endif /* NKI_POSIX */

/* ---- src/os/message_windows.c ---- */
/* Messages on Windows: gathered and scattered, with a datagram's address, and beside it what
 * control messages there are. Descriptors and credentials do not go with messages here:
 * NETKIT_E_NOSYS. WSARecvMsg is for datagrams; of streams WSARecv tells all that there is. */

#if NKI_WINDOWS

/* As WSA_CMSG_LEN and WSA_CMSG_SPACE, which do not compile everywhere without a warning. */
#define NKI_CMSG_LEN(len) (sizeof(WSACMSGHDR) + (size_t)(len))
#define NKI_CMSG_SPACE(len) \
    ((NKI_CMSG_LEN(len) + sizeof(size_t) - 1) / sizeof(size_t) * sizeof(size_t))

/* Aligned for a head. */
typedef union nki_control {
    WSACMSGHDR align;
    CHAR bytes[NETKIT_CONTROL_MAX];
} nki_control;

/* Pieces of `most` bytes together. Returns how many. */
static DWORD nki_os_bufs(WSABUF *bufs, const netkit_span *spans, size_t count, size_t most) {
    DWORD used = 0;
    for (; used < count && most > 0; used++) {
        size_t len = NKI_MIN(spans[used].len, most);
        /* Of spans the system only reads, but WSABUF has no const. */
        memcpy(&bufs[used].buf, &spans[used].data, sizeof bufs[used].buf);
        bufs[used].len = (ULONG)len;
        most -= len;
    }
    return used;
}

static DWORD nki_os_bufs_rooms(WSABUF *bufs, const netkit_room *rooms, size_t count, size_t *room) {
    size_t most = NKI_CLIP(recvmsg, (size_t)INT_MAX);
    DWORD used = 0;
    *room = 0;
    for (; used < count && most > 0; used++) {
        size_t len = NKI_MIN(rooms[used].len, most);
        bufs[used].buf = (CHAR *)rooms[used].data;
        bufs[used].len = (ULONG)len;
        most -= len;
        *room += len;
    }
    return used;
}

static int nki_os_sendv_most(uintptr_t s, const netkit_span *spans, size_t count, size_t most) {
    WSABUF bufs[NETKIT_SPANS_MAX];
    DWORD sent = 0;
    if (count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    DWORD used = nki_os_bufs(bufs, spans, count, NKI_CLIP(sendmsg, most));
    return NKI_SYS_sendv(nki_os_fd(s), bufs, used, &sent) != 0 ? nki_os_send_error(s) : (int)sent;
}

static int nki_os_sendv(uintptr_t s, const netkit_span *spans, size_t count, int flags) {
    NKI_UNUSED(flags);
    return nki_os_sendv_most(s, spans, count, (size_t)INT_MAX);
}

static int nki_os_sendv_now(uintptr_t s, const netkit_span *spans, size_t count) {
    int rc = nki_os_would_wait(s, NETKIT_POLL_WRITE);
    return rc != NETKIT_OK ? rc : nki_os_sendv_most(s, spans, count, nki_os_now_most(s, INT_MAX));
}

static int nki_os_recvv(uintptr_t s, const netkit_room *rooms, size_t count, int flags) {
    WSABUF bufs[NETKIT_SPANS_MAX];
    DWORD got = 0;
    DWORD in_out = (DWORD)flags;
    size_t room;
    if (count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    DWORD used = nki_os_bufs_rooms(bufs, rooms, count, &room);
    int rc = NKI_SYS_recvv(nki_os_fd(s), bufs, used, &got, &in_out);
    return nki_os_recv_result(s, rc != 0 ? -1 : (int)got, room);
}

static int nki_os_recvv_now(uintptr_t s, const netkit_room *rooms, size_t count) {
    int rc = nki_os_would_wait(s, NETKIT_POLL_READ);
    return rc != NETKIT_OK ? rc : nki_os_recvv(s, rooms, count, 0);
}

/* ---- out ---- */

/* What can be known to be wrong without asking the system. */
static int nki_os_check_out(uintptr_t s, const netkit_message_out *out) {
    if (out->spans_count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    if (out->fds_count > NETKIT_FDS_MAX || out->control_len > NETKIT_CONTROL_MAX) {
        return NETKIT_E_TOOBIG;
    }
    if (out->fds_count != 0) {
        return NETKIT_E_NOSYS;
    }
    return out->control_len != 0 && !nki_os_is_datagram(s) ? NETKIT_E_NOSYS : NETKIT_OK;
}

static int nki_os_send_msg(uintptr_t s, const netkit_message_out *out) {
    WSABUF bufs[NETKIT_SPANS_MAX];
    struct sockaddr_storage sa;
    struct sockaddr *to = (struct sockaddr *)(void *)&sa;
    WSAMSG msg;
    nki_control control;
    socklen_t len = 0;
    DWORD sent = 0;
    int rc = nki_os_check_out(s, out);
    if (rc == NETKIT_OK && out->to != NULL) {
        rc = nki_sockaddr_from(&sa, &len, out->to);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    size_t most = NKI_CLIP(sendmsg, (size_t)INT_MAX);
    memset(&msg, 0, sizeof msg);
    msg.lpBuffers = bufs;
    msg.dwBufferCount = nki_os_bufs(bufs, out->spans, out->spans_count, most);
    if (out->control_len == 0 && out->to == NULL) {
        rc = NKI_SYS_sendv(nki_os_fd(s), bufs, msg.dwBufferCount, &sent);
    } else if (out->control_len == 0) {
        rc = NKI_SYS_sendto(nki_os_fd(s), bufs, msg.dwBufferCount, &sent, to, len);
    } else {
        memcpy(control.bytes, out->control, out->control_len);
        msg.name = out->to != NULL ? to : NULL;
        msg.namelen = len;
        msg.Control.buf = control.bytes;
        msg.Control.len = (ULONG)out->control_len;
        rc = NKI_SYS_sendmsg(nki_os_fd(s), &msg, &sent);
    }
    return rc != 0 ? nki_os_send_error(s) : (int)sent;
}

static int nki_os_send_fds(uintptr_t s, const void *data, size_t len, const uintptr_t *fds,
                           size_t count) {
    NKI_UNUSED(fds);
    return count != 0 ? (int)NETKIT_E_NOSYS : nki_os_send_flags(s, data, len, 0);
}

/* ---- in ---- */

/* Of this provider; the pointer is looked up for each call, since nothing is kept here. */
static int nki_os_recvmsg_call(SOCKET s, LPFN_WSARECVMSG *call) {
    GUID guid = WSAID_WSARECVMSG;
    DWORD got = 0;
    *call = NULL;
    return NKI_SYS_extension(s, &guid, call, (DWORD)sizeof *call, &got) != 0 ? nki_os_error()
                                                                             : NETKIT_OK;
}

/* The caller's: as the system wrote them, heads and all, as many as there is room for. */
static void nki_os_take_control(netkit_message_in *in, const WSABUF *control) {
    size_t at = 0;
    while (at + sizeof(WSACMSGHDR) <= control->len) {
        WSACMSGHDR head;
        memcpy(&head, control->buf + at, sizeof head);
        size_t space = NKI_CMSG_SPACE(head.cmsg_len - NKI_CMSG_LEN(0));
        size_t len = NKI_MIN(space, control->len - at);
        if (head.cmsg_len < sizeof head || len > in->control_max - in->control_len) {
            in->is_control_cut = true;
            return;
        }
        memcpy((char *)in->control + in->control_len, control->buf + at, len);
        in->control_len += len;
        at += space;
    }
}

/* A datagram that is longer than the room is an error here, which is told when all is written. */
static int nki_os_recv_datagram(uintptr_t s, netkit_message_in *in, WSAMSG *msg, size_t room) {
    LPFN_WSARECVMSG call;
    DWORD got = 0;
    int rc = nki_os_recvmsg_call(nki_os_fd(s), &call);
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (NKI_SYS_recvmsg(call, nki_os_fd(s), msg, &got) != 0) {
        in->is_cut = nki_os_code() == WSAEMSGSIZE;
        if (!in->is_cut) {
            return nki_os_recv_error(s, room);
        }
        got = (DWORD)room;
    }
    nki_sockaddr_to(&in->from, (const struct sockaddr_storage *)(const void *)msg->name,
                    msg->namelen);
    nki_os_take_control(in, &msg->Control);
    in->is_cut = in->is_cut || (msg->dwFlags & MSG_TRUNC) != 0;
    in->is_control_cut = in->is_control_cut || (msg->dwFlags & MSG_CTRUNC) != 0;
    return (int)got;
}

static int nki_os_recv_msg(uintptr_t s, netkit_message_in *in) {
    WSABUF bufs[NETKIT_SPANS_MAX];
    struct sockaddr_storage sa;
    WSAMSG msg;
    nki_control control;
    size_t room;
    nki_os_forget_in(in);
    if (in->rooms_count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    if (!nki_os_is_datagram(s)) {
        return nki_os_recvv(s, in->rooms, in->rooms_count, 0);
    }
    memset(&msg, 0, sizeof msg);
    memset(&sa, 0, sizeof sa);
    msg.name = (struct sockaddr *)(void *)&sa;
    msg.namelen = (int)sizeof sa;
    msg.lpBuffers = bufs;
    msg.dwBufferCount = nki_os_bufs_rooms(bufs, in->rooms, in->rooms_count, &room);
    msg.Control.buf = control.bytes;
    msg.Control.len = (ULONG)sizeof control.bytes;
    return nki_os_recv_datagram(s, in, &msg, room);
}

static int nki_os_recv_fds(uintptr_t s, void *data, size_t len, uintptr_t *fds, size_t *count) {
    NKI_UNUSED(fds);
    *count = 0;
    return nki_os_recv_flags(s, data, len, 0);
}

#endif /* NKI_WINDOWS */

/* ---- src/os/option_ip_posix.c ---- */
/* Options of IP on POSIX: IPv4 and IPv6 have each their own, and an IPv6 socket that takes IPv4
 * obeys both, each for its own datagrams. So there both are set, the second as far as the system
 * has it (Linux takes options of IPv4 on IPv6 sockets; the BSDs do not). */

#if NKI_POSIX

#define NKI_NO_NAME (-1)

/* Names that a libc may lack. The numbers are Linux's own, which do not change. */
#if NKI_LINUX
#define NKI_UDP_SEGMENT 103
#define NKI_UDP_GRO 104
#else
#define NKI_UDP_SEGMENT NKI_NO_NAME
#define NKI_UDP_GRO NKI_NO_NAME
#endif
#if defined(IP_MTU_DISCOVER) && defined(IPV6_MTU_DISCOVER)
#define NKI_IP_MTU_DISCOVER IP_MTU_DISCOVER
#define NKI_IPV6_MTU_DISCOVER IPV6_MTU_DISCOVER
#else
#define NKI_IP_MTU_DISCOVER NKI_NO_NAME
#define NKI_IPV6_MTU_DISCOVER NKI_NO_NAME
#endif
#if defined(IP_MTU) && defined(IPV6_MTU)
#define NKI_IP_MTU IP_MTU
#define NKI_IPV6_MTU IPV6_MTU
#else
#define NKI_IP_MTU NKI_NO_NAME
#define NKI_IPV6_MTU NKI_NO_NAME
#endif
#if defined(IP_PKTINFO)
#define NKI_IP_TELL_LOCAL IP_PKTINFO
#elif defined(IP_RECVDSTADDR)
#define NKI_IP_TELL_LOCAL IP_RECVDSTADDR
#else
#define NKI_IP_TELL_LOCAL NKI_NO_NAME
#endif
#if defined(IPV6_RECVPKTINFO)
#define NKI_IPV6_TELL_LOCAL IPV6_RECVPKTINFO
#else
#define NKI_IPV6_TELL_LOCAL NKI_NO_NAME
#endif
#if defined(IP_RECVTOS) && defined(IPV6_RECVTCLASS) && defined(IPV6_TCLASS)
#define NKI_IP_TELL_TOS IP_RECVTOS
#define NKI_IPV6_TELL_TOS IPV6_RECVTCLASS
#define NKI_IPV6_TOS IPV6_TCLASS
#else
#define NKI_IP_TELL_TOS NKI_NO_NAME
#define NKI_IPV6_TELL_TOS NKI_NO_NAME
#define NKI_IPV6_TOS NKI_NO_NAME
#endif
#if defined(IP_RECVTTL) && defined(IPV6_RECVHOPLIMIT)
#define NKI_IP_TELL_TTL IP_RECVTTL
#define NKI_IPV6_TELL_TTL IPV6_RECVHOPLIMIT
#else
#define NKI_IP_TELL_TTL NKI_NO_NAME
#define NKI_IPV6_TELL_TTL NKI_NO_NAME
#endif
#if defined(IP_RECVERR) && defined(IPV6_RECVERR)
#define NKI_IP_TELL_ERRORS IP_RECVERR
#define NKI_IPV6_TELL_ERRORS IPV6_RECVERR
#else
#define NKI_IP_TELL_ERRORS NKI_NO_NAME
#define NKI_IPV6_TELL_ERRORS NKI_NO_NAME
#endif
#if defined(SO_TIMESTAMPNS)
#define NKI_SO_TELL_TIME SO_TIMESTAMPNS
#else
#define NKI_SO_TELL_TIME NKI_NO_NAME
#endif

static const nki_ip_option *nki_ip_option_find(netkit_option option) {
    static const nki_ip_option rows[] = {
        {NETKIT_OPT_BROADCAST, SOL_SOCKET, SO_BROADCAST, 0, 0, 1},
        {NETKIT_OPT_TTL, 0, IP_TTL, IPV6_UNICAST_HOPS, 1, 255},
        {NETKIT_OPT_TOS, 0, IP_TOS, NKI_IPV6_TOS, 0, 255},
        {NETKIT_OPT_DONT_FRAGMENT, 0, NKI_IP_MTU_DISCOVER, NKI_IPV6_MTU_DISCOVER, 0, 2},
        {NETKIT_OPT_PATH_MTU, 0, NKI_IP_MTU, NKI_IPV6_MTU, 1, 0},
        {NETKIT_OPT_MULTICAST_TTL, 0, IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, 0, 255},
        {NETKIT_OPT_MULTICAST_LOOP, 0, IP_MULTICAST_LOOP, IPV6_MULTICAST_LOOP, 0, 1},
        {NETKIT_OPT_MULTICAST_INTERFACE, 0, IP_MULTICAST_IF, IPV6_MULTICAST_IF, 0, INT_MAX},
        {NETKIT_OPT_GRO, IPPROTO_UDP, NKI_UDP_GRO, 0, 0, 1},
        {NETKIT_OPT_TELL_LOCAL, 0, NKI_IP_TELL_LOCAL, NKI_IPV6_TELL_LOCAL, 0, 1},
        {NETKIT_OPT_TELL_TOS, 0, NKI_IP_TELL_TOS, NKI_IPV6_TELL_TOS, 0, 1},
        {NETKIT_OPT_TELL_TTL, 0, NKI_IP_TELL_TTL, NKI_IPV6_TELL_TTL, 0, 1},
        {NETKIT_OPT_TELL_TIME, SOL_SOCKET, NKI_SO_TELL_TIME, 0, 0, 1},
        {NETKIT_OPT_TELL_ERRORS, 0, NKI_IP_TELL_ERRORS, NKI_IPV6_TELL_ERRORS, 0, 1},
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].option == (int)option) {
            return &rows[i];
        }
    }
    return NULL;
}

/* NETKIT_AF_* of a socket. */
static int nki_os_family(uintptr_t s, int *family) {
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)sizeof(sa);
    memset(&sa, 0, sizeof(sa));
    if (NKI_SYS_getsockname(nki_os_fd(s), (struct sockaddr *)(void *)&sa, &len) != 0) {
        return nki_os_error();
    }
    *family = sa.ss_family == AF_INET    ? NETKIT_AF_IPV4
              : sa.ss_family == AF_INET6 ? NETKIT_AF_IPV6
              : sa.ss_family == AF_UNIX  ? NETKIT_AF_UNIX
                                         : NETKIT_AF_NONE;
    return NETKIT_OK;
}

/* IPv4 names the interface by its address, or where there is ip_mreqn, by its index. */
static int nki_os_set_multicast_if(int fd, int index) {
#if NKI_LINUX
    struct ip_mreqn request;
    memset(&request, 0, sizeof(request));
    request.imr_ifindex = index;
    return NKI_SYS_setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &request,
                              (socklen_t)sizeof(request)) != 0
               ? nki_os_error()
               : NETKIT_OK;
#else
    NKI_UNUSED(fd);
    return index == 0 ? NETKIT_OK : NETKIT_E_NOSYS;
#endif
}

static int nki_ip_set_one(int fd, const nki_ip_option *row, int value, bool is_ipv6) {
    int name = is_ipv6 ? row->name6 : row->name;
#if NKI_LINUX
    if (row->option == NETKIT_OPT_DONT_FRAGMENT) {
        static const int ways[] = {IP_PMTUDISC_WANT, IP_PMTUDISC_DO, IP_PMTUDISC_PROBE};
        value = ways[value];
    }
#endif
    if (name == NKI_NO_NAME) {
        return NETKIT_E_NOSYS;
    }
    if (row->option == NETKIT_OPT_MULTICAST_INTERFACE && !is_ipv6) {
        return nki_os_set_multicast_if(fd, value);
    }
    return nki_os_set_int(fd, is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, name, value);
}

static int nki_os_set_ip_option(uintptr_t s, netkit_option option, int value) {
    int fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    const nki_ip_option *row = nki_ip_option_find(option);
    if (row == NULL || value < row->min || value > row->max) {
        return NETKIT_E_INVALID;
    }
    if (row->level != 0) {
        return row->name == NKI_NO_NAME ? (int)NETKIT_E_NOSYS
                                        : nki_os_set_int(fd, row->level, row->name, value);
    }
    int rc = nki_os_family(s, &family);
    if (rc != NETKIT_OK || (family != NETKIT_AF_IPV4 && family != NETKIT_AF_IPV6)) {
        return rc != NETKIT_OK ? rc : (int)NETKIT_E_NOSYS;
    }
    rc = nki_ip_set_one(fd, row, value, family == NETKIT_AF_IPV6);
    if (rc == NETKIT_OK && family == NETKIT_AF_IPV6) {
        (void)nki_ip_set_one(fd, row, value, false);
    }
    return rc;
}

static int nki_ip_get_value(int option, int raw) {
    switch (option) {
#if NKI_LINUX
    case NETKIT_OPT_DONT_FRAGMENT:
        return raw == IP_PMTUDISC_DO ? 1 : raw == IP_PMTUDISC_PROBE ? 2 : 0;
#endif
    case NETKIT_OPT_BROADCAST:
    case NETKIT_OPT_MULTICAST_LOOP: return raw != 0;
    default: return raw;
    }
}

static int nki_os_get_ip_option(uintptr_t s, netkit_option option, int *value) {
    int fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    int raw = 0;
    socklen_t len = (socklen_t)sizeof(raw);
    const nki_ip_option *row = nki_ip_option_find(option);
    *value = 0;
    if (row == NULL) {
        return NETKIT_E_INVALID;
    }
    int rc = row->level != 0 ? NETKIT_OK : nki_os_family(s, &family);
    if (rc != NETKIT_OK) {
        return rc;
    }
    int level = row->level != 0 ? row->level : family == NETKIT_AF_IPV6 ? IPPROTO_IPV6 : IPPROTO_IP;
    int name = level == IPPROTO_IPV6 ? row->name6 : row->name;
    if (name == NKI_NO_NAME || (row->level == 0 && family == NETKIT_AF_UNIX)) {
        return NETKIT_E_NOSYS;
    }
    if (option == NETKIT_OPT_MULTICAST_INTERFACE && family == NETKIT_AF_IPV4) {
        return NETKIT_E_NOSYS; /* no system gives back the index, Linux an address at best */
    }
    if (NKI_SYS_getsockopt(fd, level, name, &raw, &len) != 0) {
        return nki_os_error();
    }
    *value = nki_ip_get_value((int)option, raw);
    return NETKIT_OK;
}

#endif /* NKI_POSIX */

/* ---- src/os/option_ip_windows.c ---- */
/* Options of IP on Windows: IPv4 and IPv6 have each their own, and an IPv6 socket that takes IPv4
 * obeys both, each for its own datagrams. So there both are set, the second as far as it goes. The
 * names are the system's numbers, which are the same for IPv4 and IPv6 where both exist; not every
 * SDK has all of them. */

#if NKI_WINDOWS

#define NKI_NO_NAME (-1)
#define NKI_IP_TOS 3
#define NKI_IPV6_TCLASS 39
#define NKI_IP_TTL 4 /* and IPV6_UNICAST_HOPS */
#define NKI_IP_MULTICAST_IF 9
#define NKI_IP_MULTICAST_TTL 10
#define NKI_IP_MULTICAST_LOOP 11
#define NKI_IP_DONTFRAGMENT 14
#define NKI_IP_PKTINFO 19
#define NKI_IP_HOPLIMIT 21 /* asks for the time to live, too */
#define NKI_IP_RECVTOS 40  /* and IPV6_RECVTCLASS */
#define NKI_IP_MTU_DISCOVER 71
#define NKI_IPV6_MTU 72
#define NKI_IP_MTU 73
#define NKI_UDP_SEND_MSG_SIZE 2
#define NKI_UDP_RECV_MAX_COALESCED_SIZE 3
#define NKI_UDP_COALESCED_INFO 3

enum {
    NKI_COALESCED_MOST = 65535
};

static const nki_ip_option *nki_ip_option_find(netkit_option option) {
    static const nki_ip_option rows[] = {
        {NETKIT_OPT_BROADCAST, SOL_SOCKET, SO_BROADCAST, 0, 0, 1},
        {NETKIT_OPT_TTL, 0, NKI_IP_TTL, NKI_IP_TTL, 1, 255},
        {NETKIT_OPT_TOS, 0, NKI_IP_TOS, NKI_IPV6_TCLASS, 0, 255},
        {NETKIT_OPT_DONT_FRAGMENT, 0, NKI_IP_MTU_DISCOVER, NKI_IP_MTU_DISCOVER, 0, 2},
        {NETKIT_OPT_PATH_MTU, 0, NKI_IP_MTU, NKI_IPV6_MTU, 1, 0},
        {NETKIT_OPT_MULTICAST_TTL, 0, NKI_IP_MULTICAST_TTL, NKI_IP_MULTICAST_TTL, 0, 255},
        {NETKIT_OPT_MULTICAST_LOOP, 0, NKI_IP_MULTICAST_LOOP, NKI_IP_MULTICAST_LOOP, 0, 1},
        {NETKIT_OPT_MULTICAST_INTERFACE, 0, NKI_IP_MULTICAST_IF, NKI_IP_MULTICAST_IF, 0, INT_MAX},
        {NETKIT_OPT_GRO, IPPROTO_UDP, NKI_UDP_RECV_MAX_COALESCED_SIZE, 0, 0, 1},
        {NETKIT_OPT_TELL_LOCAL, 0, NKI_IP_PKTINFO, NKI_IP_PKTINFO, 0, 1},
        {NETKIT_OPT_TELL_TOS, 0, NKI_IP_RECVTOS, NKI_IP_RECVTOS, 0, 1},
        {NETKIT_OPT_TELL_TTL, 0, NKI_IP_HOPLIMIT, NKI_IP_HOPLIMIT, 0, 1},
        {NETKIT_OPT_TELL_TIME, SOL_SOCKET, NKI_NO_NAME, 0, 0, 1},
        {NETKIT_OPT_TELL_ERRORS, SOL_SOCKET, NKI_NO_NAME, 0, 0, 1},
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].option == (int)option) {
            return &rows[i];
        }
    }
    return NULL;
}

/* In three ways where the system knows the three, else in two. */
static int nki_ip_set_fragment(SOCKET s, int level, int value) {
    static const int ways[] = {0, 1, 3}; /* not set, do, probe */
    int rc = nki_os_set_int(s, level, NKI_IP_MTU_DISCOVER, ways[value]);
    return rc == NETKIT_E_NOSYS && value < 2 ? nki_os_set_int(s, level, NKI_IP_DONTFRAGMENT, value)
                                             : rc;
}

static int nki_ip_get_fragment(SOCKET s, int level, int *value) {
    int raw;
    int rc = nki_os_get_int(s, level, NKI_IP_MTU_DISCOVER, &raw);
    if (rc == NETKIT_OK) {
        *value = raw == 1 ? 1 : raw == 3 ? 2 : 0;
    } else if (rc == NETKIT_E_NOSYS) {
        rc = nki_os_get_int(s, level, NKI_IP_DONTFRAGMENT, &raw);
        *value = raw != 0;
    }
    return rc;
}

static int nki_ip_set_one(SOCKET s, const nki_ip_option *row, int value, bool is_ipv6) {
    int level = is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;
    if (row->option == NETKIT_OPT_DONT_FRAGMENT) {
        return nki_ip_set_fragment(s, level, value);
    }
    if (row->option == NETKIT_OPT_MULTICAST_INTERFACE && !is_ipv6) {
        value = (int)htonl((u_long)value); /* an index looks like an address of 0.0.0.0/8 */
    }
    return nki_os_set_int(s, level, is_ipv6 ? row->name6 : row->name, value);
}

static int nki_ip_set_plain(SOCKET s, const nki_ip_option *row, int value) {
    if (row->option == NETKIT_OPT_TELL_ERRORS) {
        return nki_os_set_reports(s, value != 0);
    }
    if (row->name == NKI_NO_NAME) {
        return NETKIT_E_NOSYS;
    }
    if (row->option != NETKIT_OPT_GRO) {
        return nki_os_set_int(s, row->level, row->name, value);
    }
    /* Who knows no options of UDP takes the level for wrong (wine). */
    int rc = nki_os_set_int(s, row->level, row->name, value != 0 ? NKI_COALESCED_MOST : 0);
    return rc == NETKIT_E_INVALID ? (int)NETKIT_E_NOSYS : rc;
}

static int nki_os_set_ip_option(uintptr_t s, netkit_option option, int value) {
    SOCKET fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    const nki_ip_option *row = nki_ip_option_find(option);
    if (row == NULL || value < row->min || value > row->max) {
        return NETKIT_E_INVALID;
    }
    if (row->level != 0) {
        return nki_ip_set_plain(fd, row, value);
    }
    int rc = nki_os_family(s, &family);
    if (rc != NETKIT_OK || (family != NETKIT_AF_IPV4 && family != NETKIT_AF_IPV6)) {
        return rc != NETKIT_OK ? rc : (int)NETKIT_E_NOSYS;
    }
    rc = nki_ip_set_one(fd, row, value, family == NETKIT_AF_IPV6);
    if (rc == NETKIT_OK && family == NETKIT_AF_IPV6) {
        (void)nki_ip_set_one(fd, row, value, false);
    }
    return rc;
}

static int nki_os_get_ip_option(uintptr_t s, netkit_option option, int *value) {
    SOCKET fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    int raw;
    const nki_ip_option *row = nki_ip_option_find(option);
    *value = 0;
    if (row == NULL) {
        return NETKIT_E_INVALID;
    }
    int rc = row->level != 0 ? NETKIT_OK : nki_os_family(s, &family);
    if (rc != NETKIT_OK) {
        return rc;
    }
    int level = row->level != 0 ? row->level : family == NETKIT_AF_IPV6 ? IPPROTO_IPV6 : IPPROTO_IP;
    int name = level == IPPROTO_IPV6 ? row->name6 : row->name;
    bool is_foreign = row->level == 0 && family != NETKIT_AF_IPV4 && family != NETKIT_AF_IPV6;
    bool is_hidden = option == NETKIT_OPT_MULTICAST_INTERFACE && family == NETKIT_AF_IPV4;
    if (name == NKI_NO_NAME || is_foreign || is_hidden) {
        return NETKIT_E_NOSYS; /* the last: as elsewhere, where it comes back as an address */
    }
    if (option == NETKIT_OPT_DONT_FRAGMENT) {
        return nki_ip_get_fragment(fd, level, value);
    }
    rc = nki_os_get_int(fd, level, name, &raw);
    *value = row->max == 1 ? raw != 0 : raw;
    return rc;
}

#endif /* NKI_WINDOWS */

/* ---- src/os/datagram_posix.c ---- */
/* Datagrams on POSIX: many in one call where there is recvmmsg, one by one elsewhere, and what
 * goes beside them in control messages.
 *
 * Owns what the messages mean. A report of ICMP comes twice: by the next call on the socket, which
 * it fails without having done anything, and, if asked for, in the socket's error queue with the
 * address it is about (Linux ip(7), IP_RECVERR). A control buffer that is too small loses the
 * messages at its end (MSG_CTRUNC): where one datagram of a merged row ends is then not known, so
 * such a row is marked as cut. */

#if NKI_POSIX

enum {
    NKI_DGRAM_CONTROL = 256, /* all that can be asked for at once takes 176 bytes */
    NKI_DGRAM_REPORTS = 4096 /* more than a queue of the usual size can hold */
};

#if NKI_HAS_MMSG
typedef struct mmsghdr nki_mmsg;
#else
typedef struct nki_mmsg {
    struct msghdr msg_hdr;
    unsigned int msg_len;
} nki_mmsg;
#endif

typedef struct nki_dgram_side {
    union {
        struct sockaddr_storage name;
        char bytes[sizeof(struct sockaddr_storage)];
    } at;
    union {
        size_t align;
        unsigned char bytes[NKI_DGRAM_CONTROL];
    } control;
    struct iovec iov;
} nki_dgram_side;

/* What the heads in front of `sides` were last made for: those that a receive did not use are
 * as they were. */
typedef struct nki_dgram_made {
    const unsigned char *memory; /* NULL = for nothing */
    size_t stride;
    size_t size;
    unsigned count;
    unsigned used;
} nki_dgram_made;

NKI_STATIC_ASSERT(plain_scratch,
                  sizeof(nki_dgram_made) + 32 * (sizeof(nki_mmsg) + sizeof(nki_dgram_side)) <=
                      16384);

static size_t nki_os_dgram_scratch(unsigned count) {
    return sizeof(nki_dgram_made) + count * (sizeof(nki_mmsg) + sizeof(nki_dgram_side));
}

static nki_dgram_side *nki_dgram_sides(void *scratch) {
    return (nki_dgram_side *)(void *)((nki_dgram_made *)scratch + 1);
}

static nki_mmsg *nki_dgram_heads(void *scratch, unsigned count) {
    return (nki_mmsg *)(void *)(nki_dgram_sides(scratch) + count);
}

/* ---- receiving ---- */

/* The last message may be cut, too: what is not there whole is not there. */
static bool nki_control_get(const struct cmsghdr *c, void *out, size_t size) {
    if ((size_t)c->cmsg_len < (size_t)(CMSG_LEN(size))) {
        return false;
    }
    /* CMSG_DATA takes the const away on macOS. */
    memcpy(out, (const unsigned char *)(const void *)c + CMSG_LEN(0), size);
    return true;
}

/* Numbers come as an int or, from some systems, as one byte. */
static uint8_t nki_control_byte(const struct cmsghdr *c) {
    int number;
    uint8_t byte = 0;
    if (nki_control_get(c, &number, sizeof(number))) {
        return (uint8_t)number;
    }
    (void)((size_t)c->cmsg_len == (size_t)(CMSG_LEN(1)) && nki_control_get(c, &byte, 1));
    return byte;
}

/* The address of a broadcast cannot be sent from, so it is the interface's own that is told; that
 * of a multicast is the group's. */
static void nki_dgram_note_ipv4(netkit_datagram *out, const struct cmsghdr *c) {
    switch (c->cmsg_type) {
#if defined(IP_PKTINFO)
    case IP_PKTINFO: {
        struct in_pktinfo info;
        if (!nki_control_get(c, &info, sizeof(info))) {
            break;
        }
        bool is_group = (ntohl(info.ipi_addr.s_addr) >> 28) == 14;
        out->interface_index = (uint32_t)info.ipi_ifindex;
        nki_dgram_ipv4(&out->local, is_group ? &info.ipi_addr : &info.ipi_spec_dst);
        break;
    }
#elif defined(IP_RECVDSTADDR)
    case IP_RECVDSTADDR: nki_dgram_ipv4(&out->local, CMSG_DATA(c)); break;
#endif
#if !NKI_LINUX && defined(IP_RECVTTL)
    case IP_RECVTTL: out->ttl = nki_control_byte(c); break;
#endif
#if !NKI_LINUX && defined(IP_RECVTOS)
    case IP_RECVTOS: out->tos = nki_control_byte(c); break;
#endif
    case IP_TTL: out->ttl = nki_control_byte(c); break;
    case IP_TOS: out->tos = nki_control_byte(c); break;
    default: break;
    }
}

static void nki_dgram_note_ipv6(netkit_datagram *out, const struct cmsghdr *c) {
    switch (c->cmsg_type) {
#if defined(IPV6_PKTINFO)
    case IPV6_PKTINFO: {
        struct in6_pktinfo info;
        if (!nki_control_get(c, &info, sizeof(info))) {
            break;
        }
        out->interface_index = (uint32_t)info.ipi6_ifindex;
        nki_dgram_ipv6(&out->local, &info.ipi6_addr, out->interface_index);
        break;
    }
#endif
#if defined(IPV6_HOPLIMIT)
    case IPV6_HOPLIMIT: out->ttl = nki_control_byte(c); break;
#endif
#if defined(IPV6_TCLASS)
    case IPV6_TCLASS: out->tos = nki_control_byte(c); break;
#endif
    default: break;
    }
}

static void nki_dgram_note(netkit_datagram *out, const struct cmsghdr *c) {
    if (c->cmsg_level == IPPROTO_IP) {
        nki_dgram_note_ipv4(out, c);
    } else if (c->cmsg_level == IPPROTO_IPV6) {
        nki_dgram_note_ipv6(out, c);
    } else if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == NKI_UDP_GRO) {
        int size;
        bool has_size = nki_control_get(c, &size, sizeof(size));
        out->segment_size = has_size && size > 0 && (size_t)size < out->len ? (uint32_t)size : 0;
#if defined(SCM_TIMESTAMPNS)
    } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
        struct timespec time;
        if (nki_control_get(c, &time, sizeof(time))) {
            out->time_ns = (uint64_t)time.tv_sec * NKI_NS_PER_S + (uint64_t)time.tv_nsec;
        }
#endif
    }
}

/* Without the path, which is of unix alone: it is what costs. */
static void nki_dgram_peer(netkit_addr *out, const struct sockaddr_storage *name, socklen_t len) {
    if (NKI_UNLIKELY(name->ss_family != AF_INET || len < (socklen_t)sizeof(struct sockaddr_in))) {
        nki_sockaddr_to(out, name, len);
        return;
    }
    struct sockaddr_in in;
    memcpy(&in, (const void *)name, sizeof(in));
    memset(out, 0, offsetof(netkit_addr, path));
    out->family = NETKIT_AF_IPV4;
    out->port = ntohs(in.sin_port);
    memcpy(out->ip, &in.sin_addr, 4);
}

/* By hand, since CMSG_NXTHDR does not compile everywhere without a warning (musl). */
static struct cmsghdr *nki_cmsg_at(const struct msghdr *msg, size_t at) {
    size_t len = (size_t)msg->msg_controllen;
    bool is_there = at <= len && len - at >= sizeof(struct cmsghdr);
    return is_there ? (struct cmsghdr *)(void *)((char *)msg->msg_control + at) : NULL;
}

static struct cmsghdr *nki_cmsg_next(const struct msghdr *msg, const struct cmsghdr *c) {
    size_t at = (size_t)((const char *)(const void *)c - (const char *)msg->msg_control);
    size_t len = (size_t)c->cmsg_len;
    if (len < CMSG_LEN(0) || len > (size_t)msg->msg_controllen - at) {
        return NULL;
    }
    return nki_cmsg_at(msg, at + CMSG_SPACE(len - CMSG_LEN(0)));
}

static void nki_dgram_read(netkit_datagram *out, const struct msghdr *msg, const void *data,
                           size_t len) {
    nki_dgram_clear(out);
    out->data = data;
    out->len = len;
    out->is_truncated = (msg->msg_flags & MSG_TRUNC) != 0;
    nki_dgram_peer(&out->peer, (const struct sockaddr_storage *)msg->msg_name, msg->msg_namelen);
    if (msg->msg_controllen != 0) {
        for (struct cmsghdr *c = nki_cmsg_at(msg, 0); c != NULL; c = nki_cmsg_next(msg, c)) {
            nki_dgram_note(out, c);
        }
    }
    if (NKI_UNLIKELY((msg->msg_flags & MSG_CTRUNC) != 0) && out->segment_size == 0) {
        out->is_truncated = true;
    }
}

/* What the system changes in a head. */
static void nki_dgram_reset(nki_mmsg *head) {
    struct msghdr *msg = &head->msg_hdr;
    msg->msg_namelen = (socklen_t)sizeof(struct sockaddr_storage);
    msg->msg_flags = 0;
    /* Tests make it smaller than what comes. */
    msg->msg_controllen = (socklen_t)NKI_CLIP(dgram_control, NKI_DGRAM_CONTROL);
}

static void nki_dgram_head(nki_mmsg *head, nki_dgram_side *side, void *memory, size_t size) {
    struct msghdr *msg = &head->msg_hdr;
    memset(head, 0, sizeof(*head));
    side->iov.iov_base = memory;
    side->iov.iov_len = size;
    msg->msg_name = &side->at;
    msg->msg_iov = &side->iov;
    msg->msg_iovlen = 1;
    msg->msg_control = &side->control;
    nki_dgram_reset(head);
}

/* The heads of a receive: the same udp's again, most of the time. */
static void nki_dgram_make(void *scratch, const nki_dgram_room *room) {
    nki_dgram_made *made = (nki_dgram_made *)scratch;
    nki_dgram_side *sides = nki_dgram_sides(scratch);
    nki_mmsg *heads = nki_dgram_heads(scratch, room->count);
    bool is_same = made->memory == room->memory && made->stride == room->stride &&
                   made->size == room->size && made->count == room->count;
    for (unsigned i = 0; is_same && i < made->used; i++) {
        nki_dgram_reset(&heads[i]);
    }
    for (unsigned i = 0; !is_same && i < room->count; i++) {
        nki_dgram_head(&heads[i], &sides[i], room->memory + i * room->stride, room->size);
    }
    made->memory = room->memory;
    made->stride = room->stride;
    made->size = room->size;
    made->count = room->count;
}

#if NKI_HAS_MMSG
static int nki_os_recv_heads(int fd, nki_mmsg *heads, unsigned count) {
    return NKI_SYS_recvmmsg(fd, heads, count, MSG_DONTWAIT);
}

static int nki_os_send_heads(int fd, nki_mmsg *heads, unsigned count) {
    return NKI_SYS_sendmmsg(fd, heads, count, NKI_MSG_NOSIGNAL | MSG_DONTWAIT);
}
#else
static int nki_os_recv_heads(int fd, nki_mmsg *heads, unsigned count) {
    unsigned done = 0;
    for (; done < count; done++) {
        ssize_t n = NKI_SYS_recvmsg(fd, &heads[done].msg_hdr, MSG_DONTWAIT);
        if (n < 0) {
            /* An error that is not told now would be lost: fewer are received than could be. */
            return done != 0 ? (int)done : -1;
        }
        heads[done].msg_len = (unsigned)n;
        if (done + 1 < count && nki_os_wait((uintptr_t)fd, NETKIT_POLL_READ, 0) <= 0) {
            return (int)done + 1;
        }
    }
    return (int)done;
}

static int nki_os_send_heads(int fd, nki_mmsg *heads, unsigned count) {
    unsigned done = 0;
    while (done < count &&
           NKI_SYS_sendmsg(fd, &heads[done].msg_hdr, NKI_MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) {
        done++;
    }
    return done != 0 ? (int)done : -1;
}
#endif

static int nki_os_recv_dgrams(uintptr_t s, void *scratch, netkit_datagram *out,
                              const nki_dgram_room *room) {
    nki_dgram_made *made = (nki_dgram_made *)scratch;
    const nki_dgram_side *sides = nki_dgram_sides(scratch);
    nki_mmsg *heads = nki_dgram_heads(scratch, room->count);
    int n;
    nki_dgram_make(scratch, room);
    do {
        n = nki_os_recv_heads(nki_os_fd(s), heads, room->count);
    } while (n < 0 && errno == EINTR);
    /* The system may have begun with one more. */
    made->used = NKI_MIN((unsigned)NKI_MAX(n, 0) + 1, room->count);
    if (n <= 0) {
        return n == 0 || errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
    }
    for (int i = 0; i < n; i++) {
        nki_dgram_read(&out[i], &heads[i].msg_hdr, sides[i].iov.iov_base, heads[i].msg_len);
    }
    return n;
}

/* ---- sending ---- */

static void nki_control_put(struct msghdr *msg, int level, int type, const void *data,
                            size_t size) {
    size_t at = (size_t)msg->msg_controllen;
    struct cmsghdr *c = (struct cmsghdr *)(void *)((char *)msg->msg_control + at);
    size_t len = (size_t)(CMSG_LEN(size));
    size_t end = at + (size_t)(CMSG_SPACE(size));
    memset(c, 0, end - at);
    c->cmsg_level = level;
    c->cmsg_type = type;
    /* Both are a size_t here and a socklen_t there. */
    c->cmsg_len = (socklen_t)len;
    msg->msg_controllen = (socklen_t)end;
    memcpy(CMSG_DATA(c), data, size);
}

static void nki_control_local_ipv4(struct msghdr *msg, const nki_route *route) {
#if defined(IP_PKTINFO)
    struct in_pktinfo info;
    memset(&info, 0, sizeof(info));
    /* An int on Linux, unsigned on macOS. */
    memcpy(&info.ipi_ifindex, &route->interface_index, sizeof(info.ipi_ifindex));
    if (route->local_family == NETKIT_AF_IPV4) {
        memcpy(&info.ipi_spec_dst, route->local, 4);
    }
    nki_control_put(msg, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
#elif defined(IP_SENDSRCADDR)
    if (route->local_family == NETKIT_AF_IPV4) {
        nki_control_put(msg, IPPROTO_IP, IP_SENDSRCADDR, route->local, 4);
    }
#else
    NKI_UNUSED(msg);
    NKI_UNUSED(route);
#endif
}

static void nki_control_local_ipv6(struct msghdr *msg, const nki_route *route) {
#if defined(IPV6_PKTINFO)
    struct in6_pktinfo info;
    memset(&info, 0, sizeof(info));
    info.ipi6_ifindex = route->interface_index;
    if (route->local_family == NETKIT_AF_IPV6) {
        memcpy(&info.ipi6_addr, route->local, 16);
    }
    nki_control_put(msg, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
#else
    NKI_UNUSED(msg);
    NKI_UNUSED(route);
#endif
}

static void nki_control_numbers(struct msghdr *msg, const nki_route *route) {
    bool is_ipv6 = route->level == NETKIT_AF_IPV6;
    if (route->ttl != 0) {
        int ttl = route->ttl;
        nki_control_put(msg, is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, is_ipv6 ? IPV6_HOPLIMIT : IP_TTL,
                        &ttl, sizeof(ttl));
    }
    if (route->tos != 0) {
        int tos = route->tos;
        nki_control_put(msg, is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, is_ipv6 ? IPV6_TCLASS : IP_TOS,
                        &tos, sizeof(tos));
    }
}

static void nki_dgram_control(struct msghdr *msg, const nki_dgram_out *out) {
    const nki_route *route = out->route;
    if (route->local_family != NETKIT_AF_NONE || route->interface_index != 0) {
        if (route->level == NETKIT_AF_IPV6) {
            nki_control_local_ipv6(msg, route);
        } else {
            nki_control_local_ipv4(msg, route);
        }
    }
    if ((route->ttl | route->tos) != 0) {
        nki_control_numbers(msg, route);
    }
    if (out->segment != 0) {
        uint16_t size = (uint16_t)out->segment;
        nki_control_put(msg, IPPROTO_UDP, NKI_UDP_SEGMENT, &size, sizeof(size));
    }
}

/* Linux sends to an address of IPv4 on an IPv6 socket; elsewhere it must be mapped. */
static void nki_dgram_name(struct msghdr *msg, nki_dgram_side *side, const nki_dgram_out *out,
                           bool is_ipv6) {
    const nki_route *route = out->route;
    socklen_t len = 0;
    if (route->family == NETKIT_AF_IPV4 && (NKI_LINUX || !is_ipv6)) {
        struct sockaddr_in sa;
        memset(&sa, 0, sizeof(sa));
        sa.sin_family = AF_INET;
        sa.sin_port = htons(route->port);
        memcpy(&sa.sin_addr, route->ip, 4);
        memcpy(side->at.bytes, &sa, sizeof(sa));
        len = (socklen_t)sizeof(sa);
    } else if (route->family == NETKIT_AF_IPV4 || route->family == NETKIT_AF_IPV6) {
        static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
        struct sockaddr_in6 sa;
        bool is_mapped = route->family == NETKIT_AF_IPV4;
        memset(&sa, 0, sizeof(sa));
        sa.sin6_family = AF_INET6;
        sa.sin6_port = htons(route->port);
        sa.sin6_scope_id = route->scope;
        if (is_mapped) {
            memcpy(&sa.sin6_addr, mapped, 12);
        }
        memcpy((char *)&sa.sin6_addr + (is_mapped ? 12 : 0), route->ip, is_mapped ? 4 : 16);
        memcpy(side->at.bytes, &sa, sizeof(sa));
        len = (socklen_t)sizeof(sa);
    } else if (out->path != NULL) {
        (void)nki_sockaddr_from(&side->at.name, &len, out->path);
    }
#if NKI_BSD
    side->at.name.ss_len = (uint8_t)len;
#endif
    msg->msg_name = len == 0 ? NULL : (void *)&side->at;
    msg->msg_namelen = len;
}

static int nki_os_send_dgrams(uintptr_t s, bool is_ipv6, void *scratch, const nki_dgram_out *out,
                              unsigned count) {
    nki_dgram_side *sides = nki_dgram_sides(scratch);
    nki_mmsg *heads = nki_dgram_heads(scratch, count);
    int n;
    for (unsigned i = 0; i < count; i++) {
        struct msghdr *msg = &heads[i].msg_hdr;
        memset(&heads[i], 0, sizeof(heads[i]));
        /* The system only reads, but iovec has no const. */
        memcpy(&sides[i].iov.iov_base, &out[i].data, sizeof(out[i].data));
        sides[i].iov.iov_len = out[i].len;
        msg->msg_iov = &sides[i].iov;
        msg->msg_iovlen = 1;
        nki_dgram_name(msg, &sides[i], &out[i], is_ipv6);
        msg->msg_control = &sides[i].control;
        nki_dgram_control(msg, &out[i]);
        if (msg->msg_controllen == 0) {
            msg->msg_control = NULL;
        }
    }
    do {
        n = nki_os_send_heads(nki_os_fd(s), heads, count);
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        return n;
    }
    return n == 0 || errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
}

/* ---- failures ---- */

#if NKI_LINUX
/* struct sock_extended_err of <linux/errqueue.h>. */
typedef struct nki_dgram_report {
    uint32_t os_code;
    uint8_t origin; /* 1 local, 2 ICMP, 3 ICMPv6 */
    uint8_t type;
    uint8_t code;
    uint8_t pad;
    uint32_t info;
    uint32_t data;
} nki_dgram_report;

static bool nki_dgram_reported(struct msghdr *msg, netkit_datagram *out) {
    for (struct cmsghdr *c = nki_cmsg_at(msg, 0); c != NULL; c = nki_cmsg_next(msg, c)) {
        nki_dgram_report report;
        bool is_report = (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
                         (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR);
        if (!is_report || !nki_control_get(c, &report, sizeof(report))) {
            continue;
        }
        out->os_code = (int)report.os_code;
        out->error = netkit_error_from_os(out->os_code);
        out->mtu = report.os_code == EMSGSIZE ? report.info : 0;
        return report.origin == 2 || report.origin == 3; /* the call itself tells local ones */
    }
    return false;
}

/* Those that a call has told itself are passed over, however many: what is behind them may wake
 * nobody a second time. */
static int nki_os_recv_failed(uintptr_t s, netkit_datagram *out, void *memory, size_t size) {
    for (int i = 0; i < NKI_DGRAM_REPORTS; i++) {
        nki_dgram_side side;
        nki_mmsg head;
        ssize_t n;
        nki_dgram_head(&head, &side, memory, size);
        do {
            n = NKI_SYS_recvmsg(nki_os_fd(s), &head.msg_hdr, MSG_ERRQUEUE | MSG_DONTWAIT);
        } while (n < 0 && errno == EINTR);
        if (n < 0) {
            return errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
        }
        memset(out, 0, sizeof(*out));
        if (nki_dgram_reported(&head.msg_hdr, out)) {
            nki_sockaddr_to(&out->peer, &side.at.name, head.msg_hdr.msg_namelen);
            out->data = memory;
            out->len = (size_t)n;
            return NETKIT_OK;
        }
    }
    return NETKIT_E_AGAIN;
}
#else
static int nki_os_recv_failed(uintptr_t s, netkit_datagram *out, void *memory, size_t size) {
    NKI_UNUSED(s);
    NKI_UNUSED(out);
    NKI_UNUSED(memory);
    NKI_UNUSED(size);
    return NETKIT_E_AGAIN;
}
#endif

/* ---- groups, buffers, abilities ---- */

#if defined(MCAST_JOIN_GROUP) && defined(MCAST_JOIN_SOURCE_GROUP)
/* Of a group with a source Linux says otherwise than of one without that it was joined already, or
 * not at all. (Others use the first of these for interfaces that are not there, too.) */
static int nki_os_join_error(bool is_join, bool has_source) {
    int error = nki_os_error();
    if (NKI_LINUX && has_source && is_join && error == NETKIT_E_ADDRNOTAVAIL) {
        return NETKIT_E_ADDRINUSE;
    }
    if (NKI_LINUX && has_source && !is_join && error == NETKIT_E_INVALID) {
        return NETKIT_E_ADDRNOTAVAIL;
    }
    return error;
}

static int nki_os_join(uintptr_t s, bool is_join, const netkit_addr *group,
                       uint32_t interface_index, const netkit_addr *source) {
    struct group_source_req request;
    struct group_req any;
    socklen_t len;
    int level = group->family == NETKIT_AF_IPV6 ? IPPROTO_IPV6 : IPPROTO_IP;
    bool is_group = group->family == NETKIT_AF_IPV6   ? group->ip[0] == 0xFF
                    : group->family == NETKIT_AF_IPV4 ? group->ip[0] >> 4 == 14
                                                      : false;
    memset(&request, 0, sizeof(request));
    memset(&any, 0, sizeof(any));
    if (!is_group || nki_sockaddr_from(&request.gsr_group, &len, group) != NETKIT_OK) {
        return NETKIT_E_INVALID;
    }
    int rc;
    if (source == NULL) {
        any.gr_interface = interface_index;
        any.gr_group = request.gsr_group;
        rc = NKI_SYS_setsockopt(nki_os_fd(s), level, is_join ? MCAST_JOIN_GROUP : MCAST_LEAVE_GROUP,
                                &any, (socklen_t)sizeof(any));
    } else {
        if (source->family != group->family ||
            nki_sockaddr_from(&request.gsr_source, &len, source) != NETKIT_OK) {
            return NETKIT_E_INVALID;
        }
        request.gsr_interface = interface_index;
        rc = NKI_SYS_setsockopt(nki_os_fd(s), level,
                                is_join ? MCAST_JOIN_SOURCE_GROUP : MCAST_LEAVE_SOURCE_GROUP,
                                &request, (socklen_t)sizeof(request));
    }
    return rc != 0 ? nki_os_join_error(is_join, source != NULL) : (int)NETKIT_OK;
}
#else
static int nki_os_join(uintptr_t s, bool is_join, const netkit_addr *group,
                       uint32_t interface_index, const netkit_addr *source) {
    NKI_UNUSED(s);
    NKI_UNUSED(is_join);
    NKI_UNUSED(group);
    NKI_UNUSED(interface_index);
    NKI_UNUSED(source);
    return NETKIT_E_NOSYS;
}
#endif

static bool nki_os_knows_udp_option(int fd, int name) {
    int value = 0;
    socklen_t len = (socklen_t)sizeof(value);
    return name != NKI_NO_NAME && NKI_SYS_getsockopt(fd, IPPROTO_UDP, name, &value, &len) == 0;
}

static uint32_t nki_os_dgram_caps(uintptr_t s) {
    int fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    uint32_t caps = NKI_HAS_MMSG ? NETKIT_UDP_CAP_BATCH : 0;
    if (nki_os_family(s, &family) != NETKIT_OK ||
        (family != NETKIT_AF_IPV4 && family != NETKIT_AF_IPV6)) {
        return caps;
    }
    caps |= nki_os_knows_udp_option(fd, NKI_UDP_SEGMENT) ? (uint32_t)NETKIT_UDP_CAP_GSO : 0u;
    caps |= nki_os_knows_udp_option(fd, NKI_UDP_GRO) ? (uint32_t)NETKIT_UDP_CAP_GRO : 0u;
    caps |= NKI_IP_TELL_LOCAL != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_LOCAL : 0u;
    caps |= NKI_IP_TELL_TOS != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_TOS : 0u;
    caps |= NKI_IP_TELL_TTL != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_TTL : 0u;
    caps |= NKI_SO_TELL_TIME != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_TIME : 0u;
    caps |= NKI_IP_TELL_ERRORS != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_ERRORS : 0u;
    return caps;
}

#endif /* NKI_POSIX */

/* ---- src/os/datagram_windows.c ---- */
/* Datagrams on Windows: one by one, with what goes beside them in control messages.
 *
 * A datagram that is longer than its room is an error of the call, which has filled everything in
 * by then (WSAEMSGSIZE). A report of ICMP, where it was asked for, makes a call fail
 * (WSAECONNRESET) without saying about whom. */

#if NKI_WINDOWS

enum {
    NKI_DGRAM_CONTROL = 256 /* all that can be asked for at once takes less */
};

typedef struct nki_dgram_side {
    struct sockaddr_storage name;
    nki_control control;
    WSABUF buf;
} nki_dgram_side;

/* Nothing is kept between calls. */
static size_t nki_os_dgram_scratch(unsigned count) {
    NKI_UNUSED(count);
    return 64;
}

/* ---- receiving ---- */

/* One control message: what is behind its head, `len` bytes. */
typedef struct nki_note {
    int level;
    int type;
    const CHAR *data;
    size_t len;
} nki_note;

static bool nki_note_get(const nki_note *note, void *out, size_t size) {
    if (note->len < size) {
        return false;
    }
    memcpy(out, note->data, size);
    return true;
}

static uint32_t nki_note_number(const nki_note *note) {
    uint32_t number = 0;
    uint8_t byte = 0;
    if (!nki_note_get(note, &number, sizeof number) && nki_note_get(note, &byte, sizeof byte)) {
        number = byte;
    }
    return number;
}

/* The asked-for and the told are numbered alike or not, from one Windows to the next. */
static void nki_dgram_note_ip(netkit_datagram *out, const nki_note *note) {
    bool is_ipv6 = note->level == IPPROTO_IPV6;
    if (note->type == NKI_IP_PKTINFO && is_ipv6) {
        struct in6_pktinfo info;
        if (nki_note_get(note, &info, sizeof info)) {
            out->interface_index = (uint32_t)info.ipi6_ifindex;
            nki_dgram_ipv6(&out->local, &info.ipi6_addr, out->interface_index);
        }
    } else if (note->type == NKI_IP_PKTINFO) {
        struct in_pktinfo info;
        if (nki_note_get(note, &info, sizeof info)) {
            out->interface_index = (uint32_t)info.ipi_ifindex;
            nki_dgram_ipv4(&out->local, &info.ipi_addr);
        }
    } else if (note->type == NKI_IP_HOPLIMIT || (note->type == NKI_IP_TTL && !is_ipv6)) {
        out->ttl = (uint8_t)nki_note_number(note);
    } else if (note->type == (is_ipv6 ? NKI_IPV6_TCLASS : NKI_IP_TOS) ||
               note->type == NKI_IP_RECVTOS) {
        out->tos = (uint8_t)nki_note_number(note);
    }
}

static void nki_dgram_note(netkit_datagram *out, const nki_note *note) {
    if (note->level == IPPROTO_IP || note->level == IPPROTO_IPV6) {
        nki_dgram_note_ip(out, note);
    } else if (note->level == IPPROTO_UDP && note->type == NKI_UDP_COALESCED_INFO) {
        uint32_t size = nki_note_number(note);
        out->segment_size = size > 0 && size < out->len ? size : 0;
    }
}

static void nki_dgram_notes(netkit_datagram *out, const WSABUF *control) {
    size_t at = 0;
    while (at + sizeof(WSACMSGHDR) <= control->len) {
        WSACMSGHDR head;
        nki_note note;
        memcpy(&head, control->buf + at, sizeof head);
        if (head.cmsg_len < NKI_CMSG_LEN(0) || head.cmsg_len > control->len - at) {
            return;
        }
        note.level = head.cmsg_level;
        note.type = head.cmsg_type;
        note.data = control->buf + at + NKI_CMSG_LEN(0);
        note.len = head.cmsg_len - NKI_CMSG_LEN(0);
        nki_dgram_note(out, &note);
        at += NKI_CMSG_SPACE(note.len);
    }
}

/* NETKIT_OK, or why there is none. */
static int nki_dgram_recv(SOCKET s, LPFN_WSARECVMSG call, netkit_datagram *out, void *memory,
                          size_t size) {
    nki_dgram_side side;
    WSAMSG msg;
    DWORD got = (DWORD)size; /* wine leaves it alone when something was cut */
    memset(&msg, 0, sizeof msg);
    memset(&side.name, 0, sizeof side.name);
    side.buf.buf = (CHAR *)memory;
    side.buf.len = (ULONG)size;
    msg.name = (struct sockaddr *)(void *)&side.name;
    msg.namelen = (int)sizeof side.name;
    msg.lpBuffers = &side.buf;
    msg.dwBufferCount = 1;
    msg.Control.buf = side.control.bytes;
    msg.Control.len = (ULONG)NKI_CLIP(dgram_control, NKI_DGRAM_CONTROL);
    bool is_cut = false;
    if (NKI_SYS_recvmsg(call, s, &msg, &got) != 0) {
        is_cut = nki_os_code() == WSAEMSGSIZE;
        if (!is_cut) {
            return nki_os_recv_error((uintptr_t)s, size);
        }
    }
    nki_dgram_clear(out);
    out->data = memory;
    out->len = got;
    out->is_truncated = is_cut || (msg.dwFlags & MSG_TRUNC) != 0;
    nki_sockaddr_to(&out->peer, &side.name, msg.namelen);
    nki_dgram_notes(out, &msg.Control);
    if ((msg.dwFlags & MSG_CTRUNC) != 0 && out->segment_size == 0) {
        out->is_truncated = true; /* where one datagram of a row ends is then not known */
    }
    return NETKIT_OK;
}

static int nki_os_recv_dgrams(uintptr_t s, void *scratch, netkit_datagram *out,
                              const nki_dgram_room *room) {
    LPFN_WSARECVMSG call;
    NKI_UNUSED(scratch);
    int rc = nki_os_recvmsg_call(nki_os_fd(s), &call);
    unsigned done = 0;
    for (; done < room->count && rc == NETKIT_OK; done++) {
        rc = room->may_block ? nki_os_would_wait(s, NETKIT_POLL_READ) : (int)NETKIT_OK;
        if (rc == NETKIT_OK) {
            rc = nki_dgram_recv(nki_os_fd(s), call, &out[done], room->memory + done * room->stride,
                                room->size);
        }
        if (rc != NETKIT_OK) {
            break;
        }
    }
    return done != 0 ? (int)done : rc;
}

/* ---- sending ---- */

static void nki_control_put(WSAMSG *msg, int level, int type, const void *data, size_t size) {
    WSACMSGHDR head;
    CHAR *at = msg->Control.buf + msg->Control.len;
    size_t space = NKI_CMSG_SPACE(size);
    memset(at, 0, space);
    head.cmsg_len = NKI_CMSG_LEN(size);
    head.cmsg_level = level;
    head.cmsg_type = type;
    memcpy(at, &head, sizeof head);
    memcpy(at + NKI_CMSG_LEN(0), data, size);
    msg->Control.len += (ULONG)space;
}

static void nki_control_local(WSAMSG *msg, const nki_route *route) {
    if (route->level == NETKIT_AF_IPV6) {
        struct in6_pktinfo info;
        memset(&info, 0, sizeof info);
        info.ipi6_ifindex = route->interface_index;
        if (route->local_family == NETKIT_AF_IPV6) {
            memcpy(&info.ipi6_addr, route->local, 16);
        }
        nki_control_put(msg, IPPROTO_IPV6, NKI_IP_PKTINFO, &info, sizeof info);
    } else {
        struct in_pktinfo info;
        memset(&info, 0, sizeof info);
        info.ipi_ifindex = route->interface_index;
        if (route->local_family == NETKIT_AF_IPV4) {
            memcpy(&info.ipi_addr, route->local, 4);
        }
        nki_control_put(msg, IPPROTO_IP, NKI_IP_PKTINFO, &info, sizeof info);
    }
}

static void nki_control_numbers(WSAMSG *msg, const nki_route *route) {
    bool is_ipv6 = route->level == NETKIT_AF_IPV6;
    int level = is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;
    if (route->ttl != 0) {
        int ttl = route->ttl;
        nki_control_put(msg, level, is_ipv6 ? NKI_IP_HOPLIMIT : NKI_IP_TTL, &ttl, sizeof ttl);
    }
    if (route->tos != 0) {
        int tos = route->tos;
        nki_control_put(msg, level, is_ipv6 ? NKI_IPV6_TCLASS : NKI_IP_TOS, &tos, sizeof tos);
    }
}

static void nki_dgram_control(WSAMSG *msg, const nki_dgram_out *out, bool has_numbers) {
    const nki_route *route = out->route;
    msg->Control.len = 0;
    if (route->local_family != NETKIT_AF_NONE || route->interface_index != 0) {
        nki_control_local(msg, route);
    }
    if (has_numbers) {
        nki_control_numbers(msg, route);
    }
    if (out->segment != 0) {
        DWORD size = out->segment;
        nki_control_put(msg, IPPROTO_UDP, NKI_UDP_SEND_MSG_SIZE, &size, sizeof size);
    }
}

/* An address of IPv4 is mapped on an IPv6 socket. Returns its length, 0 = the connected peer. */
static int nki_dgram_name(struct sockaddr_storage *name, const nki_dgram_out *out, bool is_ipv6) {
    const nki_route *route = out->route;
    netkit_addr to;
    socklen_t len = 0;
    if (out->path != NULL) {
        (void)nki_sockaddr_from(name, &len, out->path);
        return len;
    }
    if (route->family == NETKIT_AF_NONE) {
        return 0;
    }
    memset(&to, 0, offsetof(netkit_addr, path));
    to.family = route->family;
    to.port = route->port;
    to.scope = route->scope;
    memcpy(to.ip, route->ip, sizeof to.ip);
    if (is_ipv6 && route->family == NETKIT_AF_IPV4) {
        to.family = NETKIT_AF_IPV6;
        memset(to.ip, 0, 10);
        to.ip[10] = to.ip[11] = 0xFF;
        memcpy(to.ip + 12, route->ip, 4);
    }
    (void)nki_sockaddr_from(name, &len, &to);
    return len;
}

static int nki_dgram_call(SOCKET s, WSAMSG *msg) {
    DWORD sent = 0;
    if (msg->Control.len != 0) {
        return NKI_SYS_sendmsg(s, msg, &sent);
    }
    return msg->name != NULL ? NKI_SYS_sendto(s, msg->lpBuffers, 1, &sent, msg->name, msg->namelen)
                             : NKI_SYS_sendv(s, msg->lpBuffers, 1, &sent);
}

static uint32_t nki_dgram_cap(SOCKET s, int level, int name, uint32_t cap) {
    int value;
    return nki_os_get_int(s, level, name, &value) == NETKIT_OK ? cap : 0;
}

/* Not every Windows takes a time to live and a type of service with a datagram, and one that does
 * not refuses it: then it goes without them. */
static int nki_dgram_send(SOCKET s, bool is_ipv6, const nki_dgram_out *out) {
    nki_dgram_side side;
    WSAMSG msg;
    /* Wine would send one that is to be cut as a whole. */
    if (out->segment != 0 && nki_dgram_cap(s, IPPROTO_UDP, NKI_UDP_SEND_MSG_SIZE, 1) == 0) {
        return nki_os_fail(WSAEOPNOTSUPP);
    }
    memset(&msg, 0, sizeof msg);
    /* The system only reads, but WSABUF has no const. */
    memcpy(&side.buf.buf, &out->data, sizeof side.buf.buf);
    side.buf.len = (ULONG)out->len;
    msg.namelen = nki_dgram_name(&side.name, out, is_ipv6);
    msg.name = msg.namelen != 0 ? (struct sockaddr *)(void *)&side.name : NULL;
    msg.lpBuffers = &side.buf;
    msg.dwBufferCount = 1;
    msg.Control.buf = side.control.bytes;
    nki_dgram_control(&msg, out, true);
    int rc = nki_dgram_call(s, &msg);
    bool has_numbers = (out->route->ttl | out->route->tos) != 0;
    if (rc != 0 && nki_os_code() == WSAEINVAL && has_numbers) {
        nki_dgram_control(&msg, out, false);
        rc = nki_dgram_call(s, &msg);
    }
    if (rc != 0 && msg.name == NULL && nki_os_code() == WSAEINVAL) {
        return nki_os_fail(WSAENOTCONN); /* wine's word for it */
    }
    return rc != 0 ? nki_os_send_error((uintptr_t)s) : (int)NETKIT_OK;
}

static int nki_os_send_dgrams(uintptr_t s, bool is_ipv6, void *scratch, const nki_dgram_out *out,
                              unsigned count) {
    int rc = NETKIT_OK;
    unsigned done = 0;
    NKI_UNUSED(scratch);
    for (; done < count && rc == NETKIT_OK; done += rc == NETKIT_OK) {
        rc = nki_dgram_send(nki_os_fd(s), is_ipv6, &out[done]);
    }
    return done != 0 ? (int)done : rc;
}

/* ---- failures, groups, buffers, abilities ---- */

static int nki_os_recv_failed(uintptr_t s, netkit_datagram *out, void *memory, size_t size) {
    NKI_UNUSED(s);
    NKI_UNUSED(out);
    NKI_UNUSED(memory);
    NKI_UNUSED(size);
    return NETKIT_E_AGAIN;
}

/* An index stands for an interface's address as one of 0.0.0.0/8. */
static int nki_os_join_ipv4(SOCKET s, bool is_join, const netkit_addr *group,
                            uint32_t interface_index) {
    struct ip_mreq request;
    memcpy(&request.imr_multiaddr, group->ip, 4);
    request.imr_interface.s_addr = htonl(interface_index);
    int name = is_join ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP;
    return NKI_SYS_setsockopt(s, IPPROTO_IP, name, &request, (int)sizeof request) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_os_join_ipv6(SOCKET s, bool is_join, const netkit_addr *group,
                            uint32_t interface_index) {
    struct ipv6_mreq request;
    memcpy(&request.ipv6mr_multiaddr, group->ip, 16);
    request.ipv6mr_interface = interface_index;
    int name = is_join ? IPV6_ADD_MEMBERSHIP : IPV6_DROP_MEMBERSHIP;
    return NKI_SYS_setsockopt(s, IPPROTO_IPV6, name, &request, (int)sizeof request) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_os_join_source(SOCKET s, int level, bool is_join, const netkit_addr *group,
                              uint32_t interface_index, const netkit_addr *source) {
    struct group_source_req request;
    socklen_t len;
    memset(&request, 0, sizeof request);
    request.gsr_interface = interface_index;
    if (source->family != group->family ||
        nki_sockaddr_from(&request.gsr_group, &len, group) != NETKIT_OK ||
        nki_sockaddr_from(&request.gsr_source, &len, source) != NETKIT_OK) {
        return NETKIT_E_INVALID;
    }
    int name = is_join ? MCAST_JOIN_SOURCE_GROUP : MCAST_LEAVE_SOURCE_GROUP;
    return NKI_SYS_setsockopt(s, level, name, &request, (int)sizeof request) != 0 ? nki_os_error()
                                                                                  : NETKIT_OK;
}

static int nki_os_join(uintptr_t s, bool is_join, const netkit_addr *group,
                       uint32_t interface_index, const netkit_addr *source) {
    SOCKET fd = nki_os_fd(s);
    bool is_ipv6 = group->family == NETKIT_AF_IPV6;
    bool is_group = group->family == NETKIT_AF_IPV6   ? group->ip[0] == 0xFF
                    : group->family == NETKIT_AF_IPV4 ? group->ip[0] >> 4 == 14
                                                      : false;
    if (!is_group) {
        return NETKIT_E_INVALID;
    }
    if (source != NULL) {
        int level = is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;
        return nki_os_join_source(fd, level, is_join, group, interface_index, source);
    }
    return is_ipv6 ? nki_os_join_ipv6(fd, is_join, group, interface_index)
                   : nki_os_join_ipv4(fd, is_join, group, interface_index);
}

static uint32_t nki_os_dgram_caps(uintptr_t s) {
    SOCKET fd = nki_os_fd(s);
    int family;
    if (nki_os_family(s, &family) != NETKIT_OK ||
        (family != NETKIT_AF_IPV4 && family != NETKIT_AF_IPV6)) {
        return 0;
    }
    int level = family == NETKIT_AF_IPV6 ? IPPROTO_IPV6 : IPPROTO_IP;
    uint32_t caps = nki_dgram_cap(fd, IPPROTO_UDP, NKI_UDP_SEND_MSG_SIZE, NETKIT_UDP_CAP_GSO);
    caps |= nki_dgram_cap(fd, IPPROTO_UDP, NKI_UDP_RECV_MAX_COALESCED_SIZE, NETKIT_UDP_CAP_GRO);
    caps |= nki_dgram_cap(fd, level, NKI_IP_PKTINFO, NETKIT_UDP_CAP_LOCAL);
    caps |= nki_dgram_cap(fd, level, NKI_IP_RECVTOS, NETKIT_UDP_CAP_TOS);
    caps |= nki_dgram_cap(fd, level, NKI_IP_HOPLIMIT, NETKIT_UDP_CAP_TTL);
    return caps;
}

#endif /* NKI_WINDOWS */

/* ---- src/os/socket.c ---- */
/* netkit_socket: plain sockets for programs that wait by themselves.
 *
 * Owns nothing: a socket is the system's descriptor plus one, so that {0} is none, and all
 * state is the kernel's. What stands here is the same on every system: arguments are checked,
 * calls with a time limit are loops of "try without waiting, then wait for readiness" against
 * one deadline, so that a signal, or a peer that trickles, never makes the whole longer; and
 * that a socket is blocking changes nothing for them. */

static uintptr_t nki_socket_native(netkit_socket s) {
    return s.value - 1; /* {0} becomes UINTPTR_MAX, which is none */
}

static netkit_socket nki_socket_wrap(uintptr_t native) {
    netkit_socket s;
    s.value = native + 1;
    return s;
}

NETKIT_API netkit_socket netkit_socket_from_native(uintptr_t native) {
    return nki_socket_wrap(native);
}

NETKIT_API uintptr_t netkit_socket_native(netkit_socket s) {
    return nki_socket_native(s);
}

NETKIT_API int netkit_socket_open(netkit_socket *out, int family, int type, int flags) {
    uintptr_t native;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out->value = 0;
    if ((flags & ~NETKIT_SOCKET_BLOCKING) != 0) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_os_plain_socket(family, type, (flags & NETKIT_SOCKET_BLOCKING) != 0, &native);
    *out = nki_socket_wrap(native);
    return rc;
}

NETKIT_API int netkit_socket_pair(netkit_socket out[2], int type, int flags) {
    uintptr_t natives[2];
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out[0].value = out[1].value = 0;
    if ((flags & ~NETKIT_SOCKET_BLOCKING) != 0) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_os_plain_pair(type, (flags & NETKIT_SOCKET_BLOCKING) != 0, natives);
    out[0] = nki_socket_wrap(natives[0]);
    out[1] = nki_socket_wrap(natives[1]);
    return rc;
}

NETKIT_API int netkit_socket_bind(netkit_socket s, const netkit_addr *addr, int flags) {
    if (s.value == 0 || addr == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_os_bind(nki_socket_native(s), addr, flags);
}

NETKIT_API int netkit_socket_listen(netkit_socket s, int backlog) {
    return s.value == 0 ? (int)NETKIT_E_INVALID : nki_os_listen(nki_socket_native(s), backlog);
}

/* What the way out of a failure does must not change the code of the system behind it, so the
 * socket is closed by the caller's netkit_socket_close, or quietly here. */
static int nki_socket_listen_one(uintptr_t *out, const netkit_addr *addr, int flags, int backlog) {
    bool is_blocking = (flags & NETKIT_SOCKET_BLOCKING) != 0;
    netkit_unix_file file;
    memset(&file, 0, sizeof file);
    int rc = nki_os_plain_socket(addr->family, NETKIT_SOCK_STREAM, is_blocking, out);
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_bind_unix(*out, addr, flags & ~NETKIT_SOCKET_BLOCKING, 0, &file);
    if (rc == NETKIT_OK) {
        rc = nki_os_listen(*out, backlog);
    }
    if (rc != NETKIT_OK) {
        nki_os_undo_unix(&file);
        nki_os_abandon(*out);
        *out = UINTPTR_MAX;
    }
    return rc;
}

/* IPv6 is missing in one of three ways: no such sockets (ipv6.disable=1), no such address
 * (disable_ipv6=1), or none that takes IPv4 as well (OpenBSD). */
static bool nki_socket_lacks_ipv6(int rc) {
    return rc == NETKIT_E_NOSYS || rc == NETKIT_E_ADDRNOTAVAIL || rc == NETKIT_E_INVALID;
}

NETKIT_API int netkit_socket_listen_on(netkit_socket *out, const netkit_addr *addr, int flags,
                                       int backlog) {
    const int known = NETKIT_SOCKET_BLOCKING | NETKIT_SOCKET_REUSE_PORT | NETKIT_SOCKET_V6ONLY |
                      NETKIT_SOCKET_NO_REUSE | NETKIT_SOCKET_REPLACE;
    uintptr_t native = UINTPTR_MAX;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out->value = 0;
    if (addr == NULL || (flags & ~known) != 0 || backlog < 0) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_socket_listen_one(&native, addr, flags, backlog);
    bool may_fall_back = addr->is_any && (flags & NETKIT_SOCKET_V6ONLY) == 0;
    if (may_fall_back && nki_socket_lacks_ipv6(rc)) {
        netkit_addr ipv4;
        memset(&ipv4, 0, sizeof(ipv4));
        ipv4.family = NETKIT_AF_IPV4;
        ipv4.port = addr->port;
        rc = nki_socket_listen_one(&native, &ipv4, flags, backlog);
    }
    *out = nki_socket_wrap(native);
    return rc;
}

NETKIT_API int netkit_socket_accept(netkit_socket s, netkit_socket *out, netkit_addr *peer) {
    uintptr_t native = UINTPTR_MAX;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out->value = 0;
    if (s.value == 0) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_os_accept(nki_socket_native(s), &native, peer);
    *out = nki_socket_wrap(native);
    return rc;
}

NETKIT_API int netkit_socket_connect(netkit_socket s, const netkit_addr *addr, int timeout_ms) {
    if (s.value == 0 || addr == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_os_connect_within(nki_socket_native(s), addr, timeout_ms);
}

NETKIT_API int netkit_socket_connect_result(netkit_socket s) {
    return s.value == 0 ? (int)NETKIT_E_INVALID : nki_os_connect_result(nki_socket_native(s));
}

static bool nki_spans_are_valid(const netkit_span *spans, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (spans == NULL || (spans[i].data == NULL && spans[i].len > 0)) {
            return false;
        }
    }
    return true;
}

static bool nki_rooms_are_valid(const netkit_room *rooms, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (rooms == NULL || (rooms[i].data == NULL && rooms[i].len > 0)) {
            return false;
        }
    }
    return true;
}

/* Pieces of memory that exist side by side cannot add up to more than a size_t holds. */
static size_t nki_spans_len(const netkit_span *spans, size_t count) {
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += spans[i].len;
    }
    return sum;
}

static size_t nki_rooms_len(const netkit_room *rooms, size_t count) {
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += rooms[i].len;
    }
    return sum;
}

NETKIT_API int netkit_socket_send(netkit_socket s, const void *data, size_t len) {
    if (s.value == 0 || (data == NULL && len > 0)) {
        return NETKIT_E_INVALID;
    }
    return nki_os_send_flags(nki_socket_native(s), data, len, 0);
}

NETKIT_API int netkit_socket_recv(netkit_socket s, void *data, size_t len) {
    uintptr_t native = nki_socket_native(s);
    if (s.value == 0 || (data == NULL && len > 0)) {
        return NETKIT_E_INVALID;
    }
    if (len == 0) {
        return 0; /* asking the system would throw a datagram away, or wait for data */
    }
    int rc = nki_os_recv_flags(native, data, len, 0);
    return rc == NETKIT_E_EOF && nki_os_is_datagram(native) ? 0 : rc;
}

NETKIT_API int netkit_socket_sendv(netkit_socket s, const netkit_span *spans, size_t count) {
    if (s.value == 0 || !nki_spans_are_valid(spans, count)) {
        return NETKIT_E_INVALID;
    }
    return nki_os_sendv(nki_socket_native(s), spans, count, 0);
}

NETKIT_API int netkit_socket_recvv(netkit_socket s, const netkit_room *rooms, size_t count) {
    uintptr_t native = nki_socket_native(s);
    if (s.value == 0 || !nki_rooms_are_valid(rooms, count)) {
        return NETKIT_E_INVALID;
    }
    if (nki_rooms_len(rooms, count) == 0) {
        return 0; /* as netkit_socket_recv */
    }
    int rc = nki_os_recvv(native, rooms, count, 0);
    return rc == NETKIT_E_EOF && nki_os_is_datagram(native) ? 0 : rc;
}

/* After a step of a _all call that moved `rc` bytes or failed with it: NETKIT_OK to go on. The
 * clock is asked after progress too, else a peer that is just fast enough would stretch it. */
static int nki_socket_after_step(uintptr_t native, int rc, uint32_t events, uint64_t deadline_ns) {
    if (rc == NETKIT_E_AGAIN) {
        rc = nki_os_wait(native, events, deadline_ns);
    } else if (rc >= 0 && deadline_ns != NKI_NEVER && nki_os_now_ns() >= deadline_ns) {
        rc = nki_os_timed_out();
    }
    return rc < 0 ? rc : (int)NETKIT_OK;
}

NETKIT_API int netkit_socket_send_all(netkit_socket s, const void *data, size_t len, int timeout_ms,
                                      size_t *done) {
    uintptr_t native = nki_socket_native(s);
    const char *at = (const char *)data;
    size_t moved = 0;
    int rc = s.value == 0 || (data == NULL && len > 0) ? NETKIT_E_INVALID : NETKIT_OK;
    uint64_t deadline = rc == NETKIT_OK ? nki_os_deadline(timeout_ms) : 0;
    while (rc == NETKIT_OK && moved < len) {
        rc = nki_os_send_now(native, at + moved, len - moved);
        moved += rc > 0 ? (size_t)rc : 0u;
        if (moved == len) {
            rc = NETKIT_OK;
            break;
        }
        rc = nki_socket_after_step(native, rc, NETKIT_POLL_WRITE, deadline);
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

/* The range within the file that is meant; NETKIT_E_TRUNCATED when the file does not have it. */
static int nki_file_range(uintptr_t file, uint64_t offset, uint64_t *len) {
    uint64_t size;
    int error = nki_os_file_size(file, &size);
    if (error != NETKIT_OK) {
        return error;
    }
    if (offset > size || (*len != NETKIT_FILE_END && *len > size - offset)) {
        return NETKIT_E_TRUNCATED;
    }
    *len = NKI_MIN(*len, size - offset);
    return NETKIT_OK;
}

NETKIT_API int netkit_socket_send_file(netkit_socket s, uintptr_t file, uint64_t offset,
                                       uint64_t len) {
    int error = s.value == 0 ? NETKIT_E_INVALID : nki_file_range(file, offset, &len);
    if (error != NETKIT_OK) {
        return error;
    }
    return nki_os_send_file(nki_socket_native(s), file, offset, len, true);
}

NETKIT_API int netkit_socket_send_file_all(netkit_socket s, uintptr_t file, uint64_t offset,
                                           uint64_t len, int timeout_ms, uint64_t *done) {
    uintptr_t native = nki_socket_native(s);
    uint64_t moved = 0;
    bool was_blocking = false;
    int rc = s.value == 0 ? NETKIT_E_INVALID : nki_file_range(file, offset, &len);
    uint64_t deadline = rc == NETKIT_OK ? nki_os_deadline(timeout_ms) : 0;
    /* sendfile knows no MSG_DONTWAIT: a blocking socket would hold it past the deadline. */
    if (rc == NETKIT_OK) {
        rc = nki_os_unblock(native, &was_blocking);
    }
    while (rc == NETKIT_OK && moved < len) {
        rc = nki_os_wait(native, NETKIT_POLL_WRITE, deadline);
        if (rc >= 0) {
            rc = nki_os_send_file(native, file, offset + moved, len - moved, false);
        }
        moved += rc > 0 ? (uint64_t)rc : 0u;
        rc = rc < 0 && rc != NETKIT_E_AGAIN ? rc : NETKIT_OK;
    }
    if (was_blocking) {
        int os_code = nki_os_code();
        int error = nki_os_reblock(native, true);
        if (rc == NETKIT_OK) {
            rc = error;
        } else {
            (void)nki_os_fail(os_code);
        }
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

NETKIT_API int netkit_socket_recv_all(netkit_socket s, void *data, size_t len, int timeout_ms,
                                      size_t *done) {
    uintptr_t native = nki_socket_native(s);
    char *at = (char *)data;
    size_t moved = 0;
    int rc = s.value == 0 || (data == NULL && len > 0) ? NETKIT_E_INVALID : NETKIT_OK;
    uint64_t deadline = rc == NETKIT_OK ? nki_os_deadline(timeout_ms) : 0;
    while (rc == NETKIT_OK && moved < len) {
        rc = nki_os_recv_now(native, at + moved, len - moved);
        moved += rc > 0 ? (size_t)rc : 0u;
        if (moved == len) {
            rc = NETKIT_OK;
            break;
        }
        if (rc == NETKIT_E_EOF && nki_os_is_datagram(native)) {
            rc = 0;
        }
        rc = nki_socket_after_step(native, rc, NETKIT_POLL_READ, deadline);
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

/* Where a _all call over pieces is: each step moves a window of those not yet done. */
typedef struct nki_vector {
    size_t next;  /* the first piece that is not done */
    size_t begin; /* bytes of it that are */
} nki_vector;

static size_t nki_vector_spans(const nki_vector *v, const netkit_span *spans, size_t count,
                               netkit_span *out) {
    size_t used = NKI_MIN(count - v->next, (size_t)NETKIT_SPANS_MAX);
    memcpy(out, spans + v->next, used * sizeof *out);
    out[0].data = (const char *)out[0].data + v->begin;
    out[0].len -= v->begin;
    return used;
}

static size_t nki_vector_rooms(const nki_vector *v, const netkit_room *rooms, size_t count,
                               netkit_room *out) {
    size_t used = NKI_MIN(count - v->next, (size_t)NETKIT_SPANS_MAX);
    memcpy(out, rooms + v->next, used * sizeof *out);
    out[0].data = (char *)out[0].data + v->begin;
    out[0].len -= v->begin;
    return used;
}

NETKIT_API int netkit_socket_sendv_all(netkit_socket s, const netkit_span *spans, size_t count,
                                       int timeout_ms, size_t *done) {
    uintptr_t native = nki_socket_native(s);
    netkit_span window[NETKIT_SPANS_MAX];
    nki_vector v = {0, 0};
    size_t moved = 0;
    bool is_valid = s.value != 0 && nki_spans_are_valid(spans, count);
    int rc = is_valid ? NETKIT_OK : NETKIT_E_INVALID;
    size_t len = is_valid ? nki_spans_len(spans, count) : 0;
    uint64_t deadline = is_valid ? nki_os_deadline(timeout_ms) : 0;
    while (rc == NETKIT_OK && moved < len) {
        while (spans[v.next].len == v.begin) {
            v.next++;
            v.begin = 0;
        }
        rc = nki_os_sendv_now(native, window, nki_vector_spans(&v, spans, count, window));
        size_t step = rc > 0 ? (size_t)rc : 0u;
        moved += step;
        for (; step > 0 && step >= spans[v.next].len - v.begin; v.begin = 0) {
            step -= spans[v.next++].len - v.begin;
        }
        v.begin += step;
        rc = moved == len ? (int)NETKIT_OK
                          : nki_socket_after_step(native, rc, NETKIT_POLL_WRITE, deadline);
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

NETKIT_API int netkit_socket_recvv_all(netkit_socket s, const netkit_room *rooms, size_t count,
                                       int timeout_ms, size_t *done) {
    uintptr_t native = nki_socket_native(s);
    netkit_room window[NETKIT_SPANS_MAX];
    nki_vector v = {0, 0};
    size_t moved = 0;
    bool is_valid = s.value != 0 && nki_rooms_are_valid(rooms, count);
    int rc = is_valid ? NETKIT_OK : NETKIT_E_INVALID;
    size_t len = is_valid ? nki_rooms_len(rooms, count) : 0;
    uint64_t deadline = is_valid ? nki_os_deadline(timeout_ms) : 0;
    while (rc == NETKIT_OK && moved < len) {
        while (rooms[v.next].len == v.begin) {
            v.next++;
            v.begin = 0;
        }
        rc = nki_os_recvv_now(native, window, nki_vector_rooms(&v, rooms, count, window));
        size_t step = rc > 0 ? (size_t)rc : 0u;
        moved += step;
        for (; step > 0 && step >= rooms[v.next].len - v.begin; v.begin = 0) {
            step -= rooms[v.next++].len - v.begin;
        }
        v.begin += step;
        rc = rc == NETKIT_E_EOF && nki_os_is_datagram(native) ? 0 : rc;
        rc = moved == len ? (int)NETKIT_OK
                          : nki_socket_after_step(native, rc, NETKIT_POLL_READ, deadline);
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

NETKIT_API int netkit_socket_wait(netkit_socket s, int events, int timeout_ms) {
    const int known = NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_PRIORITY;
    if (s.value == 0 || events == 0 || (events & ~known) != 0) {
        return NETKIT_E_INVALID;
    }
    return nki_os_wait(nki_socket_native(s), (uint32_t)events, nki_os_deadline(timeout_ms));
}

NETKIT_API int netkit_socket_shutdown(netkit_socket s, int how) {
    return s.value == 0 ? (int)NETKIT_E_INVALID : nki_os_shutdown(nki_socket_native(s), how);
}

NETKIT_API int netkit_socket_close(netkit_socket *s) {
    if (s == NULL || s->value == 0) {
        return s == NULL ? NETKIT_E_INVALID : NETKIT_OK;
    }
    uintptr_t native = nki_socket_native(*s);
    s->value = 0;
    return nki_os_close(native);
}

NETKIT_API int netkit_socket_reset(netkit_socket *s) {
    if (s == NULL || s->value == 0) {
        return s == NULL ? NETKIT_E_INVALID : NETKIT_OK;
    }
    uintptr_t native = nki_socket_native(*s);
    s->value = 0;
    return nki_os_reset(native);
}

static int nki_socket_name(netkit_socket s, netkit_addr *out, bool is_peer) {
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    if (s.value == 0) {
        memset(out, 0, sizeof(*out));
        return NETKIT_E_INVALID;
    }
    uintptr_t native = nki_socket_native(s);
    return is_peer ? nki_os_remote(native, out) : nki_os_local(native, out);
}

NETKIT_API int netkit_socket_local(netkit_socket s, netkit_addr *out) {
    return nki_socket_name(s, out, false);
}

NETKIT_API int netkit_socket_remote(netkit_socket s, netkit_addr *out) {
    return nki_socket_name(s, out, true);
}

NETKIT_API int netkit_socket_set(netkit_socket s, netkit_option option, int value) {
    if (s.value == 0) {
        return NETKIT_E_INVALID;
    }
    return nki_os_set_option(nki_socket_native(s), option, value);
}

NETKIT_API int netkit_socket_get(netkit_socket s, netkit_option option, int *value) {
    if (value == NULL) {
        return NETKIT_E_INVALID;
    }
    *value = 0;
    return s.value == 0 ? (int)NETKIT_E_INVALID
                        : nki_os_get_option(nki_socket_native(s), option, value);
}

NETKIT_API int netkit_socket_set_text(netkit_socket s, netkit_option option, const char *value) {
    if (s.value == 0 || value == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_os_set_text(nki_socket_native(s), option, value);
}

NETKIT_API int netkit_socket_get_text(netkit_socket s, netkit_option option, char *text,
                                      size_t size) {
    if (text == NULL || size == 0) {
        return NETKIT_E_INVALID;
    }
    text[0] = 0;
    return s.value == 0 ? (int)NETKIT_E_INVALID
                        : nki_os_get_text(nki_socket_native(s), option, text, size);
}

NETKIT_API int netkit_socket_os_code(void) {
    return nki_os_code();
}

/* ---- src/os/unix.c ---- */
/* Messages and unix sockets, as users call them: arguments are checked, the system does it. */

NETKIT_API int netkit_socket_send_msg(netkit_socket s, const netkit_message_out *msg) {
    bool is_valid = s.value != 0 && msg != NULL &&
                    nki_spans_are_valid(msg->spans, msg->spans_count) &&
                    (msg->fds != NULL || msg->fds_count == 0) &&
                    (msg->control != NULL || msg->control_len == 0);
    return is_valid ? nki_os_send_msg(nki_socket_native(s), msg) : NETKIT_E_INVALID;
}

NETKIT_API int netkit_socket_recv_msg(netkit_socket s, netkit_message_in *msg) {
    if (msg == NULL) {
        return NETKIT_E_INVALID;
    }
    bool is_valid = s.value != 0 && nki_rooms_are_valid(msg->rooms, msg->rooms_count) &&
                    (msg->fds != NULL || msg->fds_max == 0) &&
                    (msg->control != NULL || msg->control_max == 0);
    if (!is_valid) {
        nki_os_forget_in(msg);
        return NETKIT_E_INVALID;
    }
    return nki_os_recv_msg(nki_socket_native(s), msg);
}

NETKIT_API int netkit_socket_credentials(netkit_socket s, netkit_credentials *out) {
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out->pid = out->uid = out->gid = -1;
    return s.value == 0 ? (int)NETKIT_E_INVALID : nki_os_credentials(nki_socket_native(s), out);
}

NETKIT_API int netkit_socket_bind_unix(netkit_socket s, const netkit_addr *addr, int flags,
                                       uint32_t mode, netkit_unix_file *file) {
    netkit_unix_file made;
    memset(&made, 0, sizeof made);
    bool is_valid = s.value != 0 && addr != NULL && addr->family == NETKIT_AF_UNIX &&
                    (flags & ~NETKIT_SOCKET_REPLACE) == 0 && mode <= 0777;
    int rc = is_valid ? nki_os_bind_unix(nki_socket_native(s), addr, flags, mode, &made)
                      : NETKIT_E_INVALID;
    if (file != NULL) {
        *file = made;
    }
    return rc;
}

NETKIT_API int netkit_unix_unlink(netkit_unix_file *file) {
    if (file == NULL) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_os_unlink_unix(file);
    if (rc == NETKIT_OK || rc == NETKIT_E_NOTFOUND || rc == NETKIT_E_STALE) {
        memset(file, 0, sizeof *file);
    }
    return rc;
}

NETKIT_API int netkit_unix_temp_path(netkit_addr *out, const char *folder) {
    static const char digits[] = "0123456789abcdef";
    char path[NETKIT_UNIX_PATH_MAX];
    char usual[NETKIT_UNIX_PATH_MAX];
    unsigned char random[8];
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    memset(out, 0, sizeof *out);
    if (folder == NULL) {
        int error = nki_os_temp_folder(usual, sizeof usual);
        if (error != NETKIT_OK) {
            return error;
        }
        folder = usual;
    }
    size_t len = strlen(folder);
    bool has_slash =
        len > 0 && (folder[len - 1] == '/' || (NKI_WINDOWS && folder[len - 1] == '\\'));
    if (len + 1 + 7 + 2 * sizeof random > sizeof path) {
        return NETKIT_E_TOOBIG;
    }
    int rc = nki_os_random(random, sizeof random);
    if (rc != NETKIT_OK) {
        return rc;
    }
    for (size_t i = 0; i < len; i++) {
        path[i] = folder[i];
    }
    if (len > 0 && !has_slash) {
        path[len++] = '/';
    }
    for (const char *name = "netkit-"; *name != 0; name++) {
        path[len++] = *name;
    }
    for (size_t i = 0; i < sizeof random; i++) {
        path[len++] = digits[random[i] >> 4];
        path[len++] = digits[random[i] & 15];
    }
    return netkit_addr_from_path(out, path, len, false);
}

/* ---- src/os/datagram.c ---- */
/* Datagrams on plain sockets, and the short form of where one goes that plain sockets and udps
 * share. */

enum {
    NKI_PLAIN_BATCH = 32 /* their scratch stands on the stack: 15 KiB */
};

/* The kernel cuts what is over its limit, and says yes. */
static int nki_os_set_buffers(uintptr_t s, uint32_t recv_size, uint32_t send_size) {
    int rc = NETKIT_OK;
    if (recv_size != 0) {
        rc = nki_os_set_int(nki_os_fd(s), SOL_SOCKET, SO_RCVBUF, (int)recv_size);
    }
    if (rc == NETKIT_OK && send_size != 0) {
        rc = nki_os_set_int(nki_os_fd(s), SOL_SOCKET, SO_SNDBUF, (int)send_size);
    }
    return rc;
}

/* An address that can be sent from: of one host, and not the unspecified one. */
static bool nki_addr_is_source(const netkit_addr *addr) {
    static const uint8_t none[16] = {0};
    if (addr->family == NETKIT_AF_IPV4) {
        return addr->ip[0] >> 4 != 14 && memcmp(addr->ip, none, 4) != 0 && addr->ip[0] != 255;
    }
    return addr->family == NETKIT_AF_IPV6 && addr->ip[0] != 0xFF && memcmp(addr->ip, none, 16) != 0;
}

/* To an address of IP, or (NULL, or {0}) the connected peer, whose family is `level`. */
static int nki_route_to(nki_route *out, const netkit_addr *to, int level) {
    memset(out, 0, sizeof(*out));
    out->level = (uint8_t)level;
    if (to == NULL || to->family == NETKIT_AF_NONE) {
        return NETKIT_OK;
    }
    if (to->family != NETKIT_AF_IPV4 && to->family != NETKIT_AF_IPV6) {
        return NETKIT_E_INVALID;
    }
    out->family = to->family;
    out->level = nki_ip_is_mapped(to->ip) && to->family == NETKIT_AF_IPV6 ? (uint8_t)NETKIT_AF_IPV4
                                                                          : to->family;
    out->port = to->port;
    out->scope = to->scope;
    memcpy(out->ip, to->ip, sizeof(out->ip));
    return NETKIT_OK;
}

/* The rest of what a datagram asks for. */
static int nki_route_ask(nki_route *out, const netkit_datagram *d) {
    out->tos = d->tos;
    out->ttl = d->ttl;
    out->interface_index = d->interface_index;
    if (!nki_addr_is_source(&d->local)) {
        return NETKIT_OK;
    }
    if (out->level == NETKIT_AF_NONE) {
        out->level = d->local.family;
    }
    out->local_family = d->local.family;
    memcpy(out->local, d->local.ip, sizeof(out->local));
    return d->local.family == out->level ? NETKIT_OK : NETKIT_E_INVALID;
}

static bool nki_datagram_is_valid(const netkit_datagram *d) {
    return (d->data != NULL || d->len == 0) && d->segment_size <= NETKIT_DATAGRAM_MAX;
}

NETKIT_API int netkit_socket_recv_datagrams(netkit_socket s, netkit_datagram *datagrams,
                                            size_t count, void *memory, size_t size) {
    union {
        uint64_t align;
        void *pointer;
        unsigned char bytes[16384];
    } scratch;
    nki_dgram_room room;
    uintptr_t native = nki_socket_native(s);
    if (s.value == 0 || datagrams == NULL || count == 0 || memory == NULL || size / count == 0) {
        return NETKIT_E_INVALID;
    }
    room.count = (unsigned)NKI_MIN(count, (size_t)NKI_PLAIN_BATCH);
    room.memory = (unsigned char *)memory;
    room.stride = size / count;
    room.size = room.stride;
    room.may_block = true;
    memset(datagrams, 0, room.count * sizeof(*datagrams));
    memset(scratch.bytes, 0, 64); /* no heads were made yet */
    int rc = nki_os_recv_dgrams(native, scratch.bytes, datagrams, &room);
    /* What failed is told by the error queue, if that was asked for; after the error itself. */
    int family = NETKIT_AF_NONE;
    if (rc < 0) { /* unix sockets have no such queue: there Linux would receive a datagram */
        int os_code = nki_os_code();
        (void)nki_os_family(native, &family);
        (void)nki_os_fail(os_code);
    }
    bool has_reports = family == NETKIT_AF_IPV4 || family == NETKIT_AF_IPV6;
    if (has_reports && nki_os_recv_failed(native, datagrams, memory, room.size) == NETKIT_OK) {
        return 1;
    }
    return rc;
}

/* Whose options go with those to the connected peer: of the peer, whatever the socket. */
static int nki_socket_levels(uintptr_t native, nki_route *routes, unsigned count) {
    netkit_addr peer;
    peer.family = NETKIT_AF_NONE;
    for (unsigned i = 0; i < count; i++) {
        nki_route *r = &routes[i];
        bool is_plain = (r->tos | r->ttl) == 0 && r->interface_index == 0;
        if (r->level != NETKIT_AF_NONE || is_plain) {
            continue;
        }
        int rc = peer.family != NETKIT_AF_NONE ? NETKIT_OK : nki_os_remote(native, &peer);
        if (rc != NETKIT_OK) {
            return rc;
        }
        r->level = peer.family;
    }
    return NETKIT_OK;
}

/* The first ones that make sense, or what is wrong with the very first. */
static int nki_socket_gather(const netkit_datagram *datagrams, unsigned count, nki_route *routes,
                             nki_dgram_out *out) {
    for (unsigned i = 0; i < count; i++) {
        const netkit_datagram *d = &datagrams[i];
        bool is_unix = d->peer.family == NETKIT_AF_UNIX;
        int rc = nki_datagram_is_valid(d) ? NETKIT_OK : NETKIT_E_INVALID;
        if (rc == NETKIT_OK) {
            rc = nki_route_to(&routes[i], is_unix ? NULL : &d->peer, NETKIT_AF_NONE);
        }
        if (rc == NETKIT_OK) {
            rc = nki_route_ask(&routes[i], d);
        }
        if (rc != NETKIT_OK) {
            return i == 0 ? rc : (int)i;
        }
        out[i].data = d->data;
        out[i].len = d->len;
        out[i].segment = d->segment_size < d->len ? d->segment_size : 0;
        out[i].route = &routes[i];
        out[i].path = is_unix ? &d->peer : NULL;
    }
    return (int)count;
}

NETKIT_API int netkit_socket_send_datagrams(netkit_socket s, const netkit_datagram *datagrams,
                                            size_t count) {
    union {
        uint64_t align;
        void *pointer;
        unsigned char bytes[16384];
    } scratch;
    nki_route routes[NKI_PLAIN_BATCH];
    nki_dgram_out out[NKI_PLAIN_BATCH];
    int family = NETKIT_AF_NONE;
    if (s.value == 0 || (datagrams == NULL && count != 0)) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_socket_gather(datagrams, (unsigned)NKI_MIN(count, (size_t)NKI_PLAIN_BATCH), routes,
                               out);
    if (rc <= 0) {
        return rc;
    }
    uintptr_t native = nki_socket_native(s);
    unsigned ready = (unsigned)rc;
    rc = nki_socket_levels(native, routes, ready);
    if (rc == NETKIT_OK && !NKI_LINUX) {
        rc = nki_os_family(native, &family);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_send_dgrams(native, family == NETKIT_AF_IPV6, scratch.bytes, out, ready);
    bool is_cut = rc < 0 && rc != NETKIT_E_AGAIN && out[0].segment != 0;
    return is_cut && (nki_os_dgram_caps(native) & NETKIT_UDP_CAP_GSO) == 0 ? (int)NETKIT_E_NOSYS
                                                                           : rc;
}

static int nki_socket_join(netkit_socket s, bool is_join, const netkit_addr *group,
                           uint32_t interface_index, const netkit_addr *source) {
    if (s.value == 0 || group == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_os_join(nki_socket_native(s), is_join, group, interface_index, source);
}

NETKIT_API int netkit_socket_join(netkit_socket s, const netkit_addr *group,
                                  uint32_t interface_index, const netkit_addr *source) {
    return nki_socket_join(s, true, group, interface_index, source);
}

NETKIT_API int netkit_socket_leave(netkit_socket s, const netkit_addr *group,
                                   uint32_t interface_index, const netkit_addr *source) {
    return nki_socket_join(s, false, group, interface_index, source);
}

NETKIT_API int netkit_socket_datagram_caps(netkit_socket s, uint32_t *caps) {
    if (caps == NULL) {
        return NETKIT_E_INVALID;
    }
    *caps = 0;
    if (s.value == 0) {
        return NETKIT_E_INVALID;
    }
    *caps = nki_os_dgram_caps(nki_socket_native(s));
    return NETKIT_OK;
}

/* ---- src/poll/poll.h ---- */
/* Pollers: one small interface, one file for each backend (epoll.c, poll.c, kqueue.c,
 * afd.c, wsapoll.c). The loop's readiness driver and the public netkit_poller stand on it. */

typedef struct nki_poller nki_poller;

typedef struct nki_poller_ops {
    const char *name;
    int backend;   /* NETKIT_BACKEND_* */
    bool has_edge; /* NETKIT_POLL_EDGE works; else descriptors are taken out while unwanted */
    int (*open)(nki_poller *p);
    void (*close)(nki_poller *p);
    /* Nothing of READ, WRITE, PRIORITY and PEER_END asked for = present but silent, hang-up too:
     * a level-triggered HUP would spin otherwise. ONESHOT leaves a descriptor so once it has
     * reported. EXISTS, NOTFOUND, INVALID (no descriptor, or bits that mean nothing), ACCESS (a
     * file that is always ready), NOSYS (EDGE where there is none) are the same everywhere. */
    int (*add)(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data);
    int (*modify)(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data);
    int (*remove)(nki_poller *p, uintptr_t native);
    /* Returns the number of events, 0 also for EINTR. timeout_ns is rounded up, never down
     * (a wait cut to 0 would spin); NKI_NEVER waits without limit. */
    int (*wait)(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns);

    /* A wake of the backend's own, an event with `data` and READ; wake_set again gives it other
     * data. wake is for any thread and signal handlers, and leaves errno alone when it succeeds.
     * NULL = it has none: a descriptor is watched for it, see nki_poller_wake_open. */
    int (*wake_set)(nki_poller *p, uint64_t data);
    int (*wake)(const nki_poller *p);
    /* Where edges do not tell of urgent data (PRIORITY), which ends a read early: how many bytes
     * there were to read when READ was reported last. NULL = they do. */
    int64_t (*held)(nki_poller *p, uintptr_t native);
    /* The system's error that an event took out of a socket, once; 0 = none. NULL = it takes none,
     * the socket still has it. */
    int (*take_error)(nki_poller *p, uintptr_t native);
    /* Tell the system what add, modify and wait left to the next wait: somebody is going to wait
     * for `native` without us. NULL = it knows at once. */
    void (*commit)(nki_poller *p);
} nki_poller_ops;

struct nki_poller {
    const nki_poller_ops *ops;
    netkit_allocator allocator;
    uintptr_t native; /* what a foreign loop can wait for, or UINTPTR_MAX */
    void *state;      /* the backend's own */
};

/* What may be asked for, and which of that makes a descriptor speak at all. */
#define NKI_POLL_SPEAKS \
    ((uint32_t)(NETKIT_POLL_READ | NETKIT_POLL_PRIORITY | NETKIT_POLL_WRITE | NETKIT_POLL_PEER_END))
#define NKI_POLL_ALWAYS ((uint32_t)(NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP))
#define NKI_POLL_KNOWN \
    (NKI_POLL_SPEAKS | NKI_POLL_ALWAYS | (uint32_t)(NETKIT_POLL_EDGE | NETKIT_POLL_ONESHOT))

/* May this be asked of a poller without edges? */
static int nki_poller_check_level(uint32_t events) {
    if ((events & ~NKI_POLL_KNOWN) != 0) {
        return NETKIT_E_INVALID;
    }
    return (events & NETKIT_POLL_EDGE) != 0 ? NETKIT_E_NOSYS : NETKIT_OK;
}

/* The wake of a poller: the backend's own, and then `wake` stays empty, or a descriptor among those
 * it watches. drain is for the wait that has seen the wake's event; signal for any thread. */
static int nki_poller_wake_open(nki_poller *p, nki_wake *wake, uint64_t data);
static int nki_poller_wake_move(nki_poller *p, const nki_wake *wake, uint64_t data);
static int nki_poller_wake_signal(const nki_poller *p, const nki_wake *wake);
static void nki_poller_wake_drain(const nki_poller *p, const nki_wake *wake);

/* Choose and open a backend: AUTO takes the first that works, a named one is that or an error. */
static int nki_poller_open(nki_poller *p, int backend, const netkit_allocator *allocator);
static void nki_poller_close(nki_poller *p);

#if NKI_POSIX
/* From a descriptor to the backend's place for it, in constant time: a table as long as the
 * highest descriptor seen, which POSIX keeps low (the lowest free one is always the next; for
 * Windows see table.h). 0 is no place. All zero is an empty table. */
typedef struct nki_fd_table {
    uint32_t *places;
    size_t count;
} nki_fd_table;

static uint32_t nki_fd_table_get(const nki_fd_table *table, uintptr_t native) {
    return native < table->count ? table->places[native] : 0;
}

/* Make sure that setting `native` cannot fail. */
static int nki_fd_table_reserve(nki_fd_table *table, uintptr_t native, const netkit_allocator *a) {
    size_t count = table->count == 0 ? 64 : table->count;
    if (native < table->count) {
        return NETKIT_OK;
    }
    if (native > (uintptr_t)INT_MAX) {
        return NETKIT_E_INVALID;
    }
    while (count <= native) {
        count *= 2;
    }
    if (count > SIZE_MAX / sizeof(uint32_t)) {
        return NETKIT_E_NOMEM;
    }
    uint32_t *places = (uint32_t *)nki_alloc_zero(a, count * sizeof(*places));
    if (places == NULL) {
        return NETKIT_E_NOMEM;
    }
    if (table->count > 0) {
        memcpy(places, table->places, table->count * sizeof(*places));
    }
    nki_free(a, table->places, table->count * sizeof(*places));
    table->places = places;
    table->count = count;
    return NETKIT_OK;
}

static void nki_fd_table_free(nki_fd_table *table, const netkit_allocator *a) {
    nki_free(a, table->places, table->count * sizeof(*table->places));
    table->places = NULL;
    table->count = 0;
}

/* What epoll refuses is refused here too, so that programs behave alike on both: plain files and
 * folders are always ready, watching them would only spin. */
static int nki_poller_check_file(uintptr_t native) {
    struct stat st;
    if (NKI_SYS_fstat(nki_os_fd(native), &st) != 0) {
        return nki_os_error();
    }
    return S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) ? NETKIT_E_ACCESS : NETKIT_OK;
}
#endif

#if NKI_WINDOWS
/* Nothing but sockets can be watched, and what other handles get an answer from them is chance. */
static int nki_poller_check_socket(uintptr_t native) {
    int type = 0;
    int size = (int)sizeof(type);
    int rc = NKI_SYS_getsockopt((SOCKET)native, SOL_SOCKET, SO_TYPE, &type, &size);
    return rc != 0 ? nki_os_error() : NETKIT_OK;
}

/* What was asked for, and what is told without. */
static uint32_t nki_poller_allowed(uint32_t events) {
    uint32_t allowed = (events & NKI_POLL_SPEAKS) | NKI_POLL_ALWAYS;
    return allowed | ((events & NETKIT_POLL_READ) != 0 ? (uint32_t)NETKIT_POLL_PEER_END : 0u);
}

/* Waits on Windows may end a little before their time, so the clock decides. */
static uint64_t nki_poller_deadline(uint64_t timeout_ns) {
    if (timeout_ns == 0 || timeout_ns == NKI_NEVER) {
        return timeout_ns;
    }
    uint64_t now = nki_os_now_ns();
    return timeout_ns < NKI_NEVER - now ? now + timeout_ns : NKI_NEVER;
}

/* Milliseconds until then, rounded up and cut to what an int holds; -1 for NKI_NEVER. */
static int nki_poller_left_ms(uint64_t deadline_ns) {
    if (deadline_ns == 0 || deadline_ns == NKI_NEVER) {
        return deadline_ns == 0 ? 0 : -1;
    }
    uint64_t now = nki_os_now_ns();
    return nki_os_poll_ms(now != 0 && now < deadline_ns ? deadline_ns - now : 0);
}
#endif

/* ---- src/poll/table.h ---- */
/* From a socket to the backend's place for it where sockets are no small numbers (a SOCKET is a
 * handle of the system's, any multiple of four). A hash table with open addressing: the cell of a
 * number is the first free one from where its hash points, at most three of four are in use, and
 * what is taken out leaves no mark, as those behind it that may move up do. Place 0 is no place.
 * All zero is an empty table. */

#ifndef NKI_HAS_SOCKET_TABLE
#define NKI_HAS_SOCKET_TABLE NKI_WINDOWS
#endif

#if NKI_HAS_SOCKET_TABLE

typedef struct nki_socket_cell {
    uintptr_t socket;
    uint32_t place; /* 0 = a free cell */
} nki_socket_cell;

typedef struct nki_socket_table {
    nki_socket_cell *cells;
    uint32_t capacity; /* a power of two, or 0 */
    uint32_t count;
} nki_socket_table;

/* Neighbours' hashes are far apart: the upper bits of a product with 2^64 divided by the golden
 * ratio (Knuth, The Art of Computer Programming 3, 6.4). */
static uint32_t nki_socket_table_home(const nki_socket_table *t, uintptr_t socket) {
    uint64_t hash = (uint64_t)socket * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(hash >> 32) & (t->capacity - 1);
}

/* Where a socket is, or where it would be put. There is a free cell. */
static uint32_t nki_socket_table_at(const nki_socket_table *t, uintptr_t socket) {
    uint32_t at = nki_socket_table_home(t, socket);
    while (t->cells[at].place != 0 && t->cells[at].socket != socket) {
        at = (at + 1) & (t->capacity - 1);
    }
    return at;
}

static uint32_t nki_socket_table_get(const nki_socket_table *t, uintptr_t socket) {
    return t->capacity == 0 ? 0 : t->cells[nki_socket_table_at(t, socket)].place;
}

/* Room for one more has been reserved. */
static void nki_socket_table_put(nki_socket_table *t, uintptr_t socket, uint32_t place) {
    nki_socket_cell *cell = &t->cells[nki_socket_table_at(t, socket)];
    t->count += cell->place == 0 ? 1 : 0;
    cell->socket = socket;
    cell->place = place;
}

/* Make sure that putting one more cannot fail. */
static int nki_socket_table_reserve(nki_socket_table *t, const netkit_allocator *a) {
    nki_socket_table grown;
    if (t->count < t->capacity / 4 * 3) {
        return NETKIT_OK;
    }
    grown.capacity = t->capacity == 0 ? 64 : t->capacity * 2;
    grown.count = 0;
    if (grown.capacity > 1u << 26) { /* more than there can be slots */
        return NETKIT_E_NOMEM;
    }
    grown.cells = (nki_socket_cell *)nki_alloc_zero(a, grown.capacity * sizeof(*grown.cells));
    if (grown.cells == NULL) {
        return NETKIT_E_NOMEM;
    }
    for (uint32_t i = 0; i < t->capacity; i++) {
        if (t->cells[i].place != 0) {
            nki_socket_table_put(&grown, t->cells[i].socket, t->cells[i].place);
        }
    }
    nki_free(a, t->cells, t->capacity * sizeof(*t->cells));
    *t = grown;
    return NETKIT_OK;
}

/* Take a socket out; it may be absent. Those behind it up to the next free cell move up when the
 * gap lies between their home and them: so none is ever cut off from its home. */
static void nki_socket_table_drop(nki_socket_table *t, uintptr_t socket) {
    uint32_t mask = t->capacity - 1;
    if (nki_socket_table_get(t, socket) == 0) {
        return;
    }
    uint32_t gap = nki_socket_table_at(t, socket);
    for (uint32_t at = (gap + 1) & mask; t->cells[at].place != 0; at = (at + 1) & mask) {
        uint32_t home = nki_socket_table_home(t, t->cells[at].socket);
        if (((at - home) & mask) >= ((at - gap) & mask)) {
            t->cells[gap] = t->cells[at];
            gap = at;
        }
    }
    t->cells[gap].place = 0;
    t->count--;
}

static void nki_socket_table_free(nki_socket_table *t, const netkit_allocator *a) {
    nki_free(a, t->cells, t->capacity * sizeof(*t->cells));
    memset(t, 0, sizeof(*t));
}

#endif /* NKI_HAS_SOCKET_TABLE */

/* ---- src/poll/epoll.c ---- */
/* The epoll backend (Linux).
 *
 * The kernel's own set is the only record of what is watched, so a descriptor costs nothing here
 * and cannot be out of step. Two facts shape the rest:
 * - epoll_ctl(2): EPOLLERR and EPOLLHUP cannot be masked. A descriptor that should be silent is
 *   therefore taken out of the kernel's set and remembered as parked.
 * - The wait path is one system call and one copy for each event. The kernel writes into the
 *   caller's array, and each record is widened in place from the last to the first: the kernel's
 *   are never larger, so no record is overwritten before it was read. NETKIT_POLL_* are Linux's
 *   own bits, asserted below, so nothing is translated.
 * epoll_wait counts in milliseconds. epoll_pwait2 (Linux 5.11) takes nanoseconds; where it is
 * missing (ENOSYS), or a sandbox forbids it (EPERM), waits are rounded up instead. */

#if NKI_HAS_EPOLL

NKI_STATIC_ASSERT(epoll_in, NETKIT_POLL_READ == (int)EPOLLIN);
NKI_STATIC_ASSERT(epoll_pri, NETKIT_POLL_PRIORITY == (int)EPOLLPRI);
NKI_STATIC_ASSERT(epoll_out, NETKIT_POLL_WRITE == (int)EPOLLOUT);
NKI_STATIC_ASSERT(epoll_err, NETKIT_POLL_ERROR == (int)EPOLLERR);
NKI_STATIC_ASSERT(epoll_hup, NETKIT_POLL_HANGUP == (int)EPOLLHUP);
NKI_STATIC_ASSERT(epoll_rdhup, NETKIT_POLL_PEER_END == (int)EPOLLRDHUP);

/* The kernel's record, in our own words: it is packed on x86-64 alone, and libc's headers say so by
 * an attribute that not every compiler is shown (glibc hides it from those that are not GCC). */
#if defined(__x86_64__)
#pragma pack(push, 1)
#endif
typedef struct nki_epoll_event {
    uint32_t events;
    uint64_t data;
} nki_epoll_event;
#if defined(__x86_64__)
#pragma pack(pop)
NKI_STATIC_ASSERT(epoll_packed, sizeof(nki_epoll_event) == 12);
#endif
#if defined(__GNUC__)
NKI_STATIC_ASSERT(epoll_same, sizeof(nki_epoll_event) == sizeof(struct epoll_event));
#endif
NKI_STATIC_ASSERT(epoll_record, sizeof(nki_epoll_event) <= sizeof(netkit_poll_event));

/* The kernel's timespec of epoll_pwait2, 64 bits wide on 32-bit systems too. */
typedef struct nki_epoll_time {
    int64_t seconds;
    int64_t nanoseconds;
} nki_epoll_time;

typedef struct nki_epoll {
    int fd;
    bool has_pwait2;     /* until the kernel says otherwise */
    nki_fd_table parked; /* 1 = present but silent */
} nki_epoll;

static int nki_epoll_open(nki_poller *p) {
    nki_epoll *ep = (nki_epoll *)nki_alloc_zero(&p->allocator, sizeof(*ep));
    if (ep == NULL) {
        return NETKIT_E_NOMEM;
    }
    ep->fd = NKI_SYS_epoll_create();
    if (ep->fd < 0) {
        int rc = nki_os_error();
        nki_free(&p->allocator, ep, sizeof(*ep));
        return rc;
    }
    ep->has_pwait2 = true;
    p->state = ep;
    p->native = (uintptr_t)ep->fd;
    return NETKIT_OK;
}

static void nki_epoll_close(nki_poller *p) {
    nki_epoll *ep = (nki_epoll *)p->state;
    (void)NKI_SYS_close(ep->fd);
    nki_fd_table_free(&ep->parked, &p->allocator);
    nki_free(&p->allocator, ep, sizeof(*ep));
}

/* RDHUP always goes with READ: who reads wants to know of the end. */
static uint32_t nki_epoll_bits(uint32_t events) {
    uint32_t bits = events & NKI_POLL_SPEAKS;
    if ((events & NETKIT_POLL_READ) != 0) {
        bits |= EPOLLRDHUP;
    }
    if ((events & NETKIT_POLL_EDGE) != 0) {
        bits |= (uint32_t)EPOLLET;
    }
    if ((events & NETKIT_POLL_ONESHOT) != 0) {
        bits |= (uint32_t)EPOLLONESHOT;
    }
    return bits;
}

static int nki_epoll_ctl(nki_epoll *ep, int op, uintptr_t native, uint32_t events, uint64_t data) {
    nki_epoll_event ev;
    memset(&ev, 0, sizeof(ev));
    ev.events = nki_epoll_bits(events);
    ev.data = data;
    if (NKI_SYS_epoll_ctl(ep->fd, op, nki_os_fd(native), &ev) != 0) {
        return nki_os_error();
    }
    return NETKIT_OK;
}

static int nki_epoll_add(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_epoll *ep = (nki_epoll *)p->state;
    bool is_silent = (events & NKI_POLL_SPEAKS) == 0;
    if ((events & ~NKI_POLL_KNOWN) != 0) {
        return NETKIT_E_INVALID;
    }
    if (nki_fd_table_get(&ep->parked, native) != 0) {
        return NETKIT_E_EXISTS;
    }
    /* Parking adds and takes out again: only so does the kernel tell what is wrong with it. */
    int rc = is_silent ? nki_fd_table_reserve(&ep->parked, native, &p->allocator) : NETKIT_OK;
    if (rc == NETKIT_OK) {
        rc = nki_epoll_ctl(ep, EPOLL_CTL_ADD, native, events, data);
    }
    if (rc == NETKIT_OK && is_silent) {
        rc = nki_epoll_ctl(ep, EPOLL_CTL_DEL, native, 0, 0);
        ep->parked.places[native] = rc == NETKIT_OK;
    }
    return rc;
}

static int nki_epoll_modify(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_epoll *ep = (nki_epoll *)p->state;
    bool is_silent = (events & NKI_POLL_SPEAKS) == 0;
    bool was_silent = nki_fd_table_get(&ep->parked, native) != 0;
    int rc;
    if ((events & ~NKI_POLL_KNOWN) != 0) {
        return NETKIT_E_INVALID;
    }
    if (!is_silent) {
        rc = nki_epoll_ctl(ep, was_silent ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, native, events, data);
        if (rc == NETKIT_OK && was_silent) {
            ep->parked.places[native] = 0;
        }
        return rc;
    }
    if (was_silent) {
        return NETKIT_OK;
    }
    rc = nki_fd_table_reserve(&ep->parked, native, &p->allocator);
    if (rc == NETKIT_OK) {
        rc = nki_epoll_ctl(ep, EPOLL_CTL_DEL, native, 0, 0);
    }
    if (rc == NETKIT_OK) {
        ep->parked.places[native] = 1;
    }
    return rc;
}

static int nki_epoll_remove(nki_poller *p, uintptr_t native) {
    nki_epoll *ep = (nki_epoll *)p->state;
    if (nki_fd_table_get(&ep->parked, native) != 0) {
        ep->parked.places[native] = 0;
        return NETKIT_OK;
    }
    return nki_epoll_ctl(ep, EPOLL_CTL_DEL, native, 0, 0);
}

/* Milliseconds are exact for most waits and for all without end; the rest needs pwait2. */
static int nki_epoll_sleep(nki_epoll *ep, void *evs, int max, uint64_t timeout_ns) {
    bool is_exact = timeout_ns == NKI_NEVER || timeout_ns % NKI_NS_PER_MS == 0;
    if (!is_exact && ep->has_pwait2) {
        nki_epoll_time time;
        time.seconds = (int64_t)(timeout_ns / NKI_NS_PER_S);
        time.nanoseconds = (int64_t)(timeout_ns % NKI_NS_PER_S);
        int n = NKI_SYS_epoll_pwait2(ep->fd, evs, max, &time);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return n;
        }
        ep->has_pwait2 = false;
    }
    return NKI_SYS_epoll_wait(ep->fd, evs, max, nki_os_poll_ms(timeout_ns));
}

static int nki_epoll_wait(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns) {
    nki_epoll *ep = (nki_epoll *)p->state;
    /* More than the kernel's EP_MAX_EVENTS is EINVAL to it. */
    int most = NKI_MIN(max, INT_MAX / (int)sizeof(netkit_poll_event));
    int n = nki_epoll_sleep(ep, events, most, timeout_ns);
    if (NKI_UNLIKELY(n < 0)) {
        return errno == EINTR ? 0 : nki_os_error();
    }
    const char *bytes = (const char *)(const void *)events;
    for (size_t i = (size_t)n; i-- > 0;) {
        nki_epoll_event ev;
        memcpy(&ev, bytes + i * sizeof(ev), sizeof(ev));
        events[i].data = ev.data;
        events[i].events = ev.events;
    }
    return n;
}

static const nki_poller_ops *nki_epoll_ops(void) {
    static const nki_poller_ops ops = {
        "epoll",
        NETKIT_BACKEND_EPOLL,
        true,
        nki_epoll_open,
        nki_epoll_close,
        nki_epoll_add,
        nki_epoll_modify,
        nki_epoll_remove,
        nki_epoll_wait,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
    };
    return &ops;
}

#endif /* NKI_HAS_EPOLL */

/* ---- src/poll/poll.c ---- */
/* The poll backend (every POSIX system): the one that always works.
 *
 * Owns two parallel arrays, the kernel's pollfd and our slot beside it, dense, and a table from
 * descriptor to place: add, modify and remove are O(1), a wait is O(n) as poll(2) itself is.
 * A descriptor that should be silent stands in the array as its complement, which is negative:
 * poll(2) ignores such entries, hang-up included. That is how events of 0, a ONESHOT that has
 * fired, and a descriptor that was closed (POLLNVAL, reported once as an error: it would be
 * reported for ever) are kept from spinning.
 * Reporting starts behind the entry reported last, so that a small `max` starves nobody. */

#if NKI_HAS_POLL

typedef struct nki_poll_slot {
    uint64_t data;
    uint32_t events;
    uint32_t fd; /* pollfd may hold its complement */
} nki_poll_slot;

typedef struct nki_poll {
    struct pollfd *fds;
    nki_poll_slot *slots;
    nki_fd_table table; /* place plus one */
    uint32_t count;
    uint32_t capacity;
    uint32_t next; /* where the next scan starts */
} nki_poll;

static int nki_poll_open(nki_poller *p) {
    p->state = nki_alloc_zero(&p->allocator, sizeof(nki_poll));
    p->native = UINTPTR_MAX;
    return p->state == NULL ? NETKIT_E_NOMEM : NETKIT_OK;
}

static void nki_poll_close(nki_poller *p) {
    nki_poll *po = (nki_poll *)p->state;
    nki_free(&p->allocator, po->fds, po->capacity * sizeof(*po->fds));
    nki_free(&p->allocator, po->slots, po->capacity * sizeof(*po->slots));
    nki_fd_table_free(&po->table, &p->allocator);
    nki_free(&p->allocator, po, sizeof(*po));
}

static int nki_poll_grow(nki_poll *po, const netkit_allocator *a) {
    uint32_t capacity = po->capacity == 0 ? 16 : po->capacity * 2;
    if (po->count < po->capacity) {
        return NETKIT_OK;
    }
    struct pollfd *fds = (struct pollfd *)nki_alloc(a, capacity * sizeof(*fds));
    nki_poll_slot *slots = (nki_poll_slot *)nki_alloc(a, capacity * sizeof(*slots));
    if (fds == NULL || slots == NULL) {
        nki_free(a, fds, capacity * sizeof(*fds));
        nki_free(a, slots, capacity * sizeof(*slots));
        return NETKIT_E_NOMEM;
    }
    if (po->count > 0) {
        memcpy(fds, po->fds, po->count * sizeof(*fds));
        memcpy(slots, po->slots, po->count * sizeof(*slots));
    }
    nki_free(a, po->fds, po->capacity * sizeof(*po->fds));
    nki_free(a, po->slots, po->capacity * sizeof(*po->slots));
    po->fds = fds;
    po->slots = slots;
    po->capacity = capacity;
    return NETKIT_OK;
}

static void nki_poll_set(nki_poll *po, uint32_t at, uint32_t events, uint64_t data) {
    nki_poll_slot *slot = &po->slots[at];
    int fd = (int)slot->fd;
    slot->data = data;
    slot->events = events;
    po->fds[at].fd = (events & NKI_POLL_SPEAKS) == 0 ? ~fd : fd;
    po->fds[at].events = nki_os_poll_from(events);
    po->fds[at].revents = 0;
}

static int nki_poll_add(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_poll *po = (nki_poll *)p->state;
    int rc = nki_poller_check_level(events);
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (nki_fd_table_get(&po->table, native) != 0) {
        return NETKIT_E_EXISTS;
    }
    rc = nki_poller_check_file(native);
    if (rc == NETKIT_OK) {
        rc = nki_fd_table_reserve(&po->table, native, &p->allocator);
    }
    if (rc == NETKIT_OK) {
        rc = nki_poll_grow(po, &p->allocator);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    po->slots[po->count].fd = (uint32_t)native;
    nki_poll_set(po, po->count, events, data);
    po->table.places[native] = ++po->count;
    return NETKIT_OK;
}

static int nki_poll_modify(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_poll *po = (nki_poll *)p->state;
    int rc = nki_poller_check_level(events);
    uint32_t place = nki_fd_table_get(&po->table, native);
    if (rc == NETKIT_OK && place == 0) {
        rc = NETKIT_E_NOTFOUND;
    }
    if (rc == NETKIT_OK) {
        nki_poll_set(po, place - 1, events, data);
    }
    return rc;
}

static int nki_poll_remove(nki_poller *p, uintptr_t native) {
    nki_poll *po = (nki_poll *)p->state;
    uint32_t place = nki_fd_table_get(&po->table, native);
    if (place == 0) {
        return NETKIT_E_NOTFOUND;
    }
    uint32_t last = --po->count;
    po->fds[place - 1] = po->fds[last];
    po->slots[place - 1] = po->slots[last];
    po->table.places[po->slots[last].fd] = place;
    po->table.places[native] = 0; /* in this order: the last may be the one removed */
    return NETKIT_OK;
}

/* Turn what poll said of one entry into an event; ends what must be said only once. */
static void nki_poll_report(nki_poll *po, uint32_t at, netkit_poll_event *event) {
    struct pollfd *fd = &po->fds[at];
    bool is_gone = (fd->revents & POLLNVAL) != 0;
    event->data = po->slots[at].data;
    event->events = is_gone ? (uint32_t)NETKIT_POLL_ERROR : nki_os_poll_to(fd->revents);
    if (is_gone || (po->slots[at].events & NETKIT_POLL_ONESHOT) != 0) {
        fd->fd = ~fd->fd;
    }
}

static int nki_poll_wait(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns) {
    nki_poll *po = (nki_poll *)p->state;
    int ready = NKI_SYS_poll(po->fds, (nfds_t)po->count, nki_os_poll_ms(timeout_ns));
    if (ready < 0) {
        /* Some systems say EAGAIN when they have no memory for the call. */
        return errno == EINTR ? 0 : errno == EAGAIN ? (int)NETKIT_E_NOMEM : nki_os_error();
    }
    int most = NKI_MIN(ready, max);
    int n = 0;
    uint32_t at = po->next < po->count ? po->next : 0;
    for (uint32_t i = 0; i < po->count && n < most; i++) {
        if (po->fds[at].revents != 0) {
            nki_poll_report(po, at, &events[n++]);
            po->next = at + 1;
        }
        at = at + 1 < po->count ? at + 1 : 0;
    }
    return n;
}

static const nki_poller_ops *nki_poll_ops(void) {
    static const nki_poller_ops ops = {
        "poll",
        NETKIT_BACKEND_POLL,
        false,
        nki_poll_open,
        nki_poll_close,
        nki_poll_add,
        nki_poll_modify,
        nki_poll_remove,
        nki_poll_wait,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
    };
    return &ops;
}

#endif /* NKI_HAS_POLL */

/* ---- src/poll/kqueue.c ---- */
/* The kqueue backend (macOS, FreeBSD, DragonFly; Linux over libkqueue with NETKIT_FORCE_KQUEUE).
 *
 * A kqueue has one filter for reading and another for writing, and reports each by itself; we
 * report a descriptor once, so what one wait brings is joined. For that, and because udata has no
 * 64 bits on 32-bit systems, each descriptor has a slot here, found by its number. What udata
 * carries is the slot's `life`, a number that no other registration had: a filter that outlived
 * its descriptor cannot speak for the next one with the same number (K-02). Facts behind the rest:
 * - kqueue(2): "Calling close() on a file descriptor will remove any kevents that reference the
 *   descriptor", but not while a duplicate is open elsewhere; so filters are deleted before, and
 *   one that is gone already (ENOENT, EBADF) is as good as deleted.
 * - Adding a filter that exists keeps its EV_CLEAR as it was made, so change is delete and add.
 * - Without room for events a list of changes ends at the first that fails, and nothing says
 *   which: then all is deleted and added one by one.
 * - EV_EOF comes with data still unread: it never replaces READ. Whether both directions are over
 *   the filters do not say; poll(2) does, asked only then.
 * - fflags of an EV_EOF has the socket's error. It is kept: libkqueue has taken it out of the
 *   socket, which says EOF then to who reads and "not connected" to who asks how connect ended.
 * - data of EVFILT_READ counts the bytes beyond an urgent mark too. A read that brought less
 *   stopped at the mark, and no edge will tell of the rest.
 * - data of EVFILT_WRITE differs between systems and is not used.
 * - A trigger of EVFILT_USER may overwrite its udata (FreeBSD does): it is the same each time. */

#if NKI_HAS_KQUEUE

enum {
    NKI_KQ_BATCH = 256, /* events in one call; nki_kq_slot.at holds one less */
    NKI_KQ_FILTERS = 3,
    NKI_KQ_READ = 1, /* nki_kq_slot.armed */
    NKI_KQ_WRITE = 2,
    NKI_KQ_URGENT = 4
};

#if defined(EVFILT_EXCEPT) && defined(NOTE_OOB)
#define NKI_KQ_HAS_URGENT 1
#define NKI_KQ_EXCEPT EVFILT_EXCEPT
#define NKI_KQ_OOB NOTE_OOB
#else
#define NKI_KQ_HAS_URGENT 0
#define NKI_KQ_EXCEPT 0
#define NKI_KQ_OOB 0
#endif

typedef struct nki_kq_slot {
    uint64_t data;
    uintptr_t life;  /* what its filters carry; 0 = the descriptor is not watched */
    uint32_t events; /* as asked; a ONESHOT that has reported asks for nothing */
    uint32_t batch;  /* the wait that reported it last, */
    uint32_t held;   /* how many bytes there were to read then, */
    uint16_t error;  /* the system's error that came with it, */
    uint8_t at;      /* and which of the events it is */
    uint8_t armed;   /* filters in the kernel */
} nki_kq_slot;

typedef struct nki_kqueue {
    int fd;
    int pid; /* children do not inherit it: there the number is nobody's, or another's */
    struct kevent *events;
    nki_kq_slot *slots; /* by descriptor */
    size_t count;
    uintptr_t life;
    uint32_t batch;
    uint64_t wake_data;
    bool has_wake;
} nki_kqueue;

static int nki_kqueue_open(nki_poller *p) {
    nki_kqueue *kq = (nki_kqueue *)nki_alloc_zero(&p->allocator, sizeof(*kq));
    if (kq == NULL) {
        return NETKIT_E_NOMEM;
    }
    kq->fd = -1;
    kq->events = (struct kevent *)nki_alloc(&p->allocator, NKI_KQ_BATCH * sizeof(*kq->events));
    int rc = kq->events == NULL ? NETKIT_E_NOMEM : NETKIT_OK;
    if (rc == NETKIT_OK) {
        kq->fd = NKI_SYS_kqueue();
        rc = kq->fd < 0 ? nki_os_error() : NETKIT_OK;
    }
    if (rc == NETKIT_OK && NKI_SYS_fcntl(kq->fd, F_SETFD, FD_CLOEXEC) != 0) {
        rc = nki_os_error();
        nki_os_abandon((uintptr_t)kq->fd);
    }
    if (rc != NETKIT_OK) {
        nki_free(&p->allocator, kq->events, NKI_KQ_BATCH * sizeof(*kq->events));
        nki_free(&p->allocator, kq, sizeof(*kq));
        return rc;
    }
    kq->pid = NKI_SYS_getpid();
    p->state = kq;
    p->native = (uintptr_t)kq->fd;
    return NETKIT_OK;
}

static void nki_kqueue_close(nki_poller *p) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    if (kq->pid == NKI_SYS_getpid()) {
        (void)NKI_SYS_close(kq->fd);
    }
    nki_free(&p->allocator, kq->slots, kq->count * sizeof(*kq->slots));
    nki_free(&p->allocator, kq->events, NKI_KQ_BATCH * sizeof(*kq->events));
    nki_free(&p->allocator, kq, sizeof(*kq));
}

/* ---- slots ---- */

static nki_kq_slot *nki_kqueue_slot(const nki_kqueue *kq, uintptr_t native) {
    return native < kq->count && kq->slots[native].life != 0 ? &kq->slots[native] : NULL;
}

/* Make room for `native`, which is a descriptor: their numbers are low on POSIX. */
static int nki_kqueue_reserve(nki_kqueue *kq, uintptr_t native, const netkit_allocator *a) {
    size_t count = kq->count == 0 ? 64 : kq->count;
    if (native < kq->count) {
        return NETKIT_OK;
    }
    while (count <= native) {
        count *= 2;
    }
    if (count > SIZE_MAX / sizeof(*kq->slots)) {
        return NETKIT_E_NOMEM;
    }
    nki_kq_slot *slots = (nki_kq_slot *)nki_alloc_zero(a, count * sizeof(*slots));
    if (slots == NULL) {
        return NETKIT_E_NOMEM;
    }
    if (kq->count > 0) {
        memcpy(slots, kq->slots, kq->count * sizeof(*slots));
    }
    nki_free(a, kq->slots, kq->count * sizeof(*slots));
    kq->slots = slots;
    kq->count = count;
    return NETKIT_OK;
}

/* ---- filters ---- */

static int nki_kqueue_check_events(uint32_t events) {
    if ((events & ~NKI_POLL_KNOWN) != 0) {
        return NETKIT_E_INVALID;
    }
    bool is_missing = (events & NETKIT_POLL_PRIORITY) != 0 && !NKI_KQ_HAS_URGENT;
    return is_missing ? NETKIT_E_NOSYS : NETKIT_OK;
}

/* Which filters the events take. The peer's end is seen by the reading one. */
static uint8_t nki_kqueue_filters(uint32_t events) {
    int filters = (events & (NETKIT_POLL_READ | NETKIT_POLL_PEER_END)) != 0 ? NKI_KQ_READ : 0;
    filters |= (events & NETKIT_POLL_WRITE) != 0 ? NKI_KQ_WRITE : 0;
    filters |= (events & NETKIT_POLL_PRIORITY) != 0 ? NKI_KQ_URGENT : 0;
    return (uint8_t)filters;
}

/* Who waits for the peer's end alone is not told of data: level-triggered, that would spin. */
static unsigned nki_kqueue_flags(uint32_t events, int filter) {
    bool is_quiet = filter == NKI_KQ_READ && (events & NETKIT_POLL_READ) == 0;
    if (is_quiet || (events & NETKIT_POLL_EDGE) != 0) {
        return EV_ADD | EV_CLEAR | (!is_quiet && (events & NETKIT_POLL_ONESHOT) ? EV_ONESHOT : 0);
    }
    return EV_ADD | ((events & NETKIT_POLL_ONESHOT) != 0 ? EV_ONESHOT : 0);
}

/* One change. What has no fixed type among the systems is copied. */
static void nki_kqueue_fill(struct kevent *ev, uintptr_t native, int filter, unsigned flags,
                            uintptr_t life) {
    memset(ev, 0, sizeof(*ev));
    ev->ident = native;
    ev->flags = (unsigned short)flags;
    memcpy(&ev->udata, &life, sizeof(life));
    switch (filter) {
    case NKI_KQ_READ: ev->filter = EVFILT_READ; break;
    case NKI_KQ_WRITE: ev->filter = EVFILT_WRITE; break;
    default:
        ev->filter = NKI_KQ_EXCEPT;
        ev->fflags = NKI_KQ_OOB;
        break;
    }
}

static int nki_kqueue_apply(nki_kqueue *kq, const struct kevent *changes, int count) {
    while (count > 0 && NKI_SYS_kevent_change(kq->fd, changes, count) < 0) {
        if (errno != EINTR) {
            return nki_os_error();
        }
    }
    return NETKIT_OK;
}

/* Delete filters one by one: those that are gone already do not keep the others. */
static int nki_kqueue_delete_each(nki_kqueue *kq, uintptr_t native, nki_kq_slot *slot, int armed) {
    int result = NETKIT_OK;
    for (int filter = 1; filter < 1 << NKI_KQ_FILTERS; filter <<= 1) {
        struct kevent change;
        if ((armed & filter) == 0) {
            continue;
        }
        nki_kqueue_fill(&change, native, filter, EV_DELETE, slot->life);
        int rc = nki_kqueue_apply(kq, &change, 1);
        bool is_gone = rc == NETKIT_OK || errno == ENOENT || errno == EBADF;
        if (is_gone) {
            slot->armed = (uint8_t)(slot->armed & ~filter);
        } else {
            result = rc;
        }
    }
    return result;
}

/* The long way round to `events`, after a failure that may have left anything. */
static int nki_kqueue_rebuild(nki_kqueue *kq, uintptr_t native, nki_kq_slot *slot,
                              uint32_t events) {
    const int all = NKI_KQ_READ | NKI_KQ_WRITE | (NKI_KQ_HAS_URGENT ? NKI_KQ_URGENT : 0);
    int wanted = nki_kqueue_filters(events);
    slot->armed = (uint8_t)all;
    int rc = nki_kqueue_delete_each(kq, native, slot, all);
    for (int filter = 1; rc == NETKIT_OK && filter <= wanted; filter <<= 1) {
        struct kevent change;
        if ((wanted & filter) == 0) {
            continue;
        }
        nki_kqueue_fill(&change, native, filter, nki_kqueue_flags(events, filter), slot->life);
        rc = nki_kqueue_apply(kq, &change, 1);
        if (rc == NETKIT_OK) {
            slot->armed = (uint8_t)(slot->armed | filter);
        }
    }
    return rc;
}

/* From what is armed to what `events` takes, in one call; nothing is asked when nothing changes.
 * Edges and ONESHOT are always made anew: asking again shows what is ready again. So is what was
 * silent: after a failure `armed` may be too much. */
static int nki_kqueue_arm(nki_kqueue *kq, uintptr_t native, nki_kq_slot *slot, uint32_t events) {
    const uint32_t fresh = NETKIT_POLL_EDGE | NETKIT_POLL_ONESHOT | NETKIT_POLL_PEER_END;
    struct kevent changes[2 * NKI_KQ_FILTERS];
    int wanted = nki_kqueue_filters(events);
    bool is_fresh = slot->events == 0 || ((events | slot->events) & fresh) != 0;
    int kept = is_fresh ? 0 : slot->armed & wanted;
    int count = 0;
    for (int filter = 1; filter < 1 << NKI_KQ_FILTERS; filter <<= 1) {
        if ((slot->armed & ~kept & filter) != 0) {
            nki_kqueue_fill(&changes[count++], native, filter, EV_DELETE, slot->life);
        }
    }
    for (int filter = 1; filter < 1 << NKI_KQ_FILTERS; filter <<= 1) {
        if ((wanted & ~kept & filter) != 0) {
            nki_kqueue_fill(&changes[count++], native, filter, nki_kqueue_flags(events, filter),
                            slot->life);
        }
    }
    if (nki_kqueue_apply(kq, changes, count) == NETKIT_OK) {
        slot->armed = (uint8_t)wanted;
        return NETKIT_OK;
    }
    return nki_kqueue_rebuild(kq, native, slot, events);
}

/* ---- the set ---- */

static int nki_kqueue_add(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    int rc = nki_kqueue_check_events(events);
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (nki_kqueue_slot(kq, native) != NULL) {
        return NETKIT_E_EXISTS;
    }
    rc = nki_poller_check_file(native);
    if (rc == NETKIT_OK) {
        rc = nki_kqueue_reserve(kq, native, &p->allocator);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    nki_kq_slot *slot = &kq->slots[native];
    memset(slot, 0, sizeof(*slot));
    kq->life += kq->life == UINTPTR_MAX ? 2 : 1; /* never 0 */
    slot->life = kq->life;
    slot->data = data;
    rc = nki_kqueue_arm(kq, native, slot, events);
    slot->events = events;
    if (rc != NETKIT_OK) {
        int os_code = errno;
        (void)nki_kqueue_delete_each(kq, native, slot, slot->armed);
        slot->life = 0;
        errno = os_code;
    }
    return rc;
}

/* A change that fails leaves what was before; should that fail as well, silence. */
static int nki_kqueue_modify(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    nki_kq_slot *slot = nki_kqueue_slot(kq, native);
    int rc = nki_kqueue_check_events(events);
    if (rc == NETKIT_OK && slot == NULL) {
        rc = NETKIT_E_NOTFOUND;
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_kqueue_arm(kq, native, slot, events);
    if (rc == NETKIT_OK) {
        slot->events = events;
        slot->data = data;
        return NETKIT_OK;
    }
    int os_code = errno;
    if (nki_kqueue_rebuild(kq, native, slot, slot->events) != NETKIT_OK) {
        (void)nki_kqueue_delete_each(kq, native, slot, slot->armed);
        slot->events = 0;
    }
    errno = os_code;
    return rc;
}

/* Whatever the kernel says, it is forgotten here, and its filters speak to nobody. */
static int nki_kqueue_remove(nki_poller *p, uintptr_t native) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    nki_kq_slot *slot = nki_kqueue_slot(kq, native);
    struct kevent changes[NKI_KQ_FILTERS];
    int count = 0;
    if (slot == NULL) {
        return NETKIT_E_NOTFOUND;
    }
    for (int filter = 1; filter < 1 << NKI_KQ_FILTERS; filter <<= 1) {
        if ((slot->armed & filter) != 0) {
            nki_kqueue_fill(&changes[count++], native, filter, EV_DELETE, slot->life);
        }
    }
    int rc = nki_kqueue_apply(kq, changes, count);
    if (rc != NETKIT_OK) {
        rc = nki_kqueue_delete_each(kq, native, slot, slot->armed);
    }
    slot->life = 0;
    return rc;
}

/* ---- waiting ---- */

/* What one filter says. What was not asked for is left out, but trouble. */
static uint32_t nki_kqueue_bits(nki_kq_slot *slot, const struct kevent *ev) {
    uint32_t bits = NETKIT_POLL_PRIORITY;
    if (ev->filter == EVFILT_WRITE) {
        bits = NETKIT_POLL_WRITE;
    } else if (ev->filter == EVFILT_READ) {
        bits = NETKIT_POLL_READ;
        slot->held = ev->data > (intptr_t)INT_MAX ? (uint32_t)INT_MAX : (uint32_t)ev->data;
    }
    bits &= slot->events;
    if (ev->fflags != 0 && ev->filter != NKI_KQ_EXCEPT) {
        bits |= NETKIT_POLL_ERROR;
        slot->error = (uint16_t)ev->fflags;
    }
    if ((ev->flags & EV_EOF) != 0) {
        int held = nki_os_wait(ev->ident, 0, 0);
        bits |= held > 0 ? (uint32_t)held & NKI_POLL_ALWAYS : 0u;
        bits |= ev->filter == EVFILT_READ ? (uint32_t)NETKIT_POLL_PEER_END : 0u;
    }
    return bits;
}

static int nki_kqueue_filter_of(const struct kevent *ev) {
    return ev->filter == EVFILT_READ    ? NKI_KQ_READ
           : ev->filter == EVFILT_WRITE ? NKI_KQ_WRITE
                                        : NKI_KQ_URGENT;
}

/* Add what a filter says to the `n` events there are; returns how many there are then. */
static int nki_kqueue_report(nki_kqueue *kq, const struct kevent *ev, netkit_poll_event *events,
                             int n) {
    uintptr_t life;
    nki_kq_slot *slot = nki_kqueue_slot(kq, ev->ident);
    memcpy(&life, &ev->udata, sizeof(life));
    if (slot == NULL || slot->life != life || slot->events == 0) {
        return n;
    }
    int filter = nki_kqueue_filter_of(ev);
    uint32_t bits = nki_kqueue_bits(slot, ev);
    if ((nki_kqueue_flags(slot->events, filter) & EV_ONESHOT) != 0) {
        slot->armed = (uint8_t)(slot->armed & ~filter); /* the kernel has deleted it */
    }
    if (bits == 0) {
        return n;
    }
    if (slot->batch == kq->batch) {
        events[slot->at].events |= bits;
        return n;
    }
    slot->batch = kq->batch;
    slot->at = (uint8_t)n;
    events[n].data = slot->data;
    events[n].events = bits;
    return n + 1;
}

/* A ONESHOT that has reported is silent in all its filters. */
static void nki_kqueue_silence(nki_kqueue *kq, uintptr_t native) {
    nki_kq_slot *slot = nki_kqueue_slot(kq, native);
    if (slot != NULL && slot->batch == kq->batch && (slot->events & NETKIT_POLL_ONESHOT) != 0) {
        (void)nki_kqueue_delete_each(kq, native, slot, slot->armed);
        slot->events = 0;
    }
}

/* A new number for this wait. After 2^32 of them it could be an old one's. */
static void nki_kqueue_begin(nki_kqueue *kq) {
    if (++kq->batch == 0) {
        for (size_t i = 0; i < kq->count; i++) {
            kq->slots[i].batch = 0;
        }
        kq->batch = 1;
    }
}

/* Some systems refuse long times (macOS: above 100,000,000 s); cut, as poll's are. */
static struct timespec *nki_kqueue_time(struct timespec *out, uint64_t timeout_ns) {
    const uint64_t most_s = (uint64_t)INT_MAX / 1000u;
    if (timeout_ns == NKI_NEVER) {
        return NULL;
    }
    bool is_long = timeout_ns / NKI_NS_PER_S >= most_s;
    memset(out, 0, sizeof(*out));
    out->tv_sec = (time_t)(is_long ? most_s : timeout_ns / NKI_NS_PER_S);
    out->tv_nsec = (long)(is_long ? 0u : timeout_ns % NKI_NS_PER_S);
    return out;
}

static int nki_kqueue_wait(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    struct timespec time;
    int most = NKI_MIN(max, (int)NKI_KQ_BATCH);
    int got = NKI_SYS_kevent(kq->fd, kq->events, most, nki_kqueue_time(&time, timeout_ns));
    if (NKI_UNLIKELY(got < 0)) {
        return errno == EINTR ? 0 : nki_os_error();
    }
    int n = 0;
    nki_kqueue_begin(kq);
    for (int i = 0; i < got; i++) {
        const struct kevent *ev = &kq->events[i];
        if (ev->filter == EVFILT_USER) {
            events[n].data = kq->wake_data;
            events[n++].events = NETKIT_POLL_READ;
        } else {
            n = nki_kqueue_report(kq, ev, events, n);
        }
    }
    for (int i = 0; i < got; i++) {
        if (kq->events[i].filter != EVFILT_USER) {
            nki_kqueue_silence(kq, kq->events[i].ident);
        }
    }
    return n;
}

static int64_t nki_kqueue_held(nki_poller *p, uintptr_t native) {
    const nki_kq_slot *slot = nki_kqueue_slot((const nki_kqueue *)p->state, native);
    return slot != NULL ? (int64_t)slot->held : INT64_MAX;
}

static int nki_kqueue_take_error(nki_poller *p, uintptr_t native) {
    nki_kq_slot *slot = nki_kqueue_slot((nki_kqueue *)p->state, native);
    int os_code = slot != NULL ? slot->error : 0;
    if (os_code != 0) {
        slot->error = 0;
    }
    return os_code;
}

/* ---- waking ---- */

/* The filter is of its own kind, so any ident and udata will do; the wait knows the data. */
static int nki_kqueue_wake_set(nki_poller *p, uint64_t data) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    struct kevent change;
    memset(&change, 0, sizeof(change));
    change.filter = EVFILT_USER;
    change.flags = EV_ADD | EV_CLEAR;
    int rc = nki_kqueue_apply(kq, &change, kq->has_wake ? 0 : 1);
    kq->has_wake = kq->has_wake || rc == NETKIT_OK;
    kq->wake_data = data;
    return rc;
}

static int nki_kqueue_wake(const nki_poller *p) {
    const nki_kqueue *kq = (const nki_kqueue *)p->state;
    struct kevent change;
    int os_code = errno;
    memset(&change, 0, sizeof(change));
    change.filter = EVFILT_USER;
    change.fflags = NOTE_TRIGGER;
    while (NKI_SYS_kevent_trigger(kq->fd, &change) < 0) {
        if (errno != EINTR) {
            return nki_os_error();
        }
    }
    errno = os_code;
    return NETKIT_OK;
}

static const nki_poller_ops *nki_kqueue_ops(void) {
    static const nki_poller_ops ops = {
        "kqueue",
        NETKIT_BACKEND_KQUEUE,
        true,
        nki_kqueue_open,
        nki_kqueue_close,
        nki_kqueue_add,
        nki_kqueue_modify,
        nki_kqueue_remove,
        nki_kqueue_wait,
        nki_kqueue_wake_set,
        nki_kqueue_wake,
        nki_kqueue_held,
        nki_kqueue_take_error,
        NULL,
    };
    return &ops;
}

#endif /* NKI_HAS_KQUEUE */

/* ---- src/poll/afd.c ---- */
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

/* ---- src/poll/wsapoll.c ---- */
/* The WSAPoll backend (Windows): the one that needs nothing but Winsock's documented calls.
 *
 * Owns two parallel arrays as poll.c does, the system's WSAPOLLFD and our slot beside it, and a
 * table from socket to place. Those that should be silent stand behind the others and are not
 * shown to the system: it may write into entries that it passes over, and hang-ups cannot be
 * masked. What differs from poll(2):
 * - POLLPRI is an error to ask for; urgent data are POLLRDBAND, and POLLIN is both.
 * - POLLHUP comes with the peer's end already, while the other direction is open, and may come to
 *   who has not asked to read. Who only wants to write then would be told nothing, again and again:
 *   so he is mute for some milliseconds, and looked at in between.
 * - An error is a connection that was refused or reset: both directions are over then, and
 *   neither blocks. (Before Windows 10 2004 a refused one is not told at all; who connects has
 *   his own time limit, and the afd backend knows.)
 * - An array of none is an error to it; a poller has its wake there at least. */

#if NKI_HAS_WSAPOLL

enum {
    NKI_WSAPOLL_MUTE_MS = 10
};

typedef struct nki_wsapoll_slot {
    uint64_t data;
    uint32_t events;
    bool is_mute; /* silent for a moment */
} nki_wsapoll_slot;

typedef struct nki_wsapoll {
    WSAPOLLFD *fds;
    nki_wsapoll_slot *slots;
    nki_socket_table table; /* place plus one */
    uint32_t count;
    uint32_t speaking; /* so many of them, the first */
    uint32_t mute;     /* and so many of the others are */
    uint32_t capacity;
    uint32_t next; /* where the next scan starts */
} nki_wsapoll;

static int nki_wsapoll_open(nki_poller *p) {
    p->state = nki_alloc_zero(&p->allocator, sizeof(nki_wsapoll));
    p->native = UINTPTR_MAX;
    return p->state == NULL ? NETKIT_E_NOMEM : NETKIT_OK;
}

static void nki_wsapoll_close(nki_poller *p) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    nki_free(&p->allocator, po->fds, po->capacity * sizeof(*po->fds));
    nki_free(&p->allocator, po->slots, po->capacity * sizeof(*po->slots));
    nki_socket_table_free(&po->table, &p->allocator);
    nki_free(&p->allocator, po, sizeof(*po));
}

static int nki_wsapoll_grow(nki_wsapoll *po, const netkit_allocator *a) {
    uint32_t capacity = po->capacity == 0 ? 16 : po->capacity * 2;
    if (po->count < po->capacity) {
        return NETKIT_OK;
    }
    WSAPOLLFD *fds = (WSAPOLLFD *)nki_alloc(a, capacity * sizeof(*fds));
    nki_wsapoll_slot *slots = (nki_wsapoll_slot *)nki_alloc(a, capacity * sizeof(*slots));
    if (fds == NULL || slots == NULL) {
        nki_free(a, fds, capacity * sizeof(*fds));
        nki_free(a, slots, capacity * sizeof(*slots));
        return NETKIT_E_NOMEM;
    }
    if (po->count > 0) {
        memcpy(fds, po->fds, po->count * sizeof(*fds));
        memcpy(slots, po->slots, po->count * sizeof(*slots));
    }
    nki_free(a, po->fds, po->capacity * sizeof(*po->fds));
    nki_free(a, po->slots, po->capacity * sizeof(*po->slots));
    po->fds = fds;
    po->slots = slots;
    po->capacity = capacity;
    return NETKIT_OK;
}

/* Who waits for the peer's end alone asks for nothing: it is told all the same. */
static short nki_wsapoll_from(uint32_t events) {
    int bits = (events & NETKIT_POLL_READ) != 0 ? POLLRDNORM : 0;
    bits |= (events & NETKIT_POLL_PRIORITY) != 0 ? POLLRDBAND : 0;
    bits |= (events & NETKIT_POLL_WRITE) != 0 ? POLLWRNORM : 0;
    return (short)bits;
}

static uint32_t nki_wsapoll_to(short bits) {
    int events = (bits & POLLRDNORM) != 0 ? NETKIT_POLL_READ : 0;
    events |= (bits & POLLRDBAND) != 0 ? NETKIT_POLL_PRIORITY : 0;
    events |= (bits & POLLWRNORM) != 0 ? NETKIT_POLL_WRITE : 0;
    events |= (bits & POLLHUP) != 0 ? NETKIT_POLL_READ | NETKIT_POLL_PEER_END : 0;
    if ((bits & POLLERR) != 0) {
        events |= NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_PEER_END;
        events |= NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
    }
    return (uint32_t)events;
}

/* ---- the set ---- */

static void nki_wsapoll_place(nki_wsapoll *po, uint32_t at, WSAPOLLFD fd, nki_wsapoll_slot slot) {
    po->fds[at] = fd;
    po->slots[at] = slot;
    nki_socket_table_put(&po->table, (uintptr_t)fd.fd, at + 1);
}

static void nki_wsapoll_swap(nki_wsapoll *po, uint32_t a, uint32_t b) {
    WSAPOLLFD fd = po->fds[a];
    nki_wsapoll_slot slot = po->slots[a];
    nki_wsapoll_place(po, a, po->fds[b], po->slots[b]);
    nki_wsapoll_place(po, b, fd, slot);
}

/* Put it among those that speak, or behind them; returns its new place. */
static uint32_t nki_wsapoll_sort(nki_wsapoll *po, uint32_t at, bool is_speaking) {
    uint32_t to = at;
    if (is_speaking && at >= po->speaking) {
        to = po->speaking++;
    } else if (!is_speaking && at < po->speaking) {
        to = --po->speaking;
    }
    if (to != at) {
        nki_wsapoll_swap(po, at, to);
    }
    return to;
}

static void nki_wsapoll_set_mute(nki_wsapoll *po, uint32_t at, bool is_mute) {
    po->mute += is_mute ? 1u : 0u;
    po->mute -= po->slots[at].is_mute ? 1u : 0u;
    po->slots[at].is_mute = is_mute;
}

static void nki_wsapoll_set(nki_wsapoll *po, uint32_t at, uint32_t events, uint64_t data) {
    nki_wsapoll_set_mute(po, at, false);
    at = nki_wsapoll_sort(po, at, (events & NKI_POLL_SPEAKS) != 0);
    po->slots[at].data = data;
    po->slots[at].events = events;
    po->fds[at].events = nki_wsapoll_from(events);
    po->fds[at].revents = 0;
}

static int nki_wsapoll_add(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    int rc = nki_poller_check_level(events);
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (nki_socket_table_get(&po->table, native) != 0) {
        return NETKIT_E_EXISTS;
    }
    rc = nki_poller_check_socket(native);
    if (rc == NETKIT_OK) {
        rc = nki_socket_table_reserve(&po->table, &p->allocator);
    }
    if (rc == NETKIT_OK) {
        rc = nki_wsapoll_grow(po, &p->allocator);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    uint32_t at = po->count++;
    memset(&po->slots[at], 0, sizeof(po->slots[at]));
    po->fds[at].fd = (SOCKET)native;
    nki_socket_table_put(&po->table, native, at + 1);
    nki_wsapoll_set(po, at, events, data);
    return NETKIT_OK;
}

static int nki_wsapoll_modify(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    int rc = nki_poller_check_level(events);
    uint32_t place = nki_socket_table_get(&po->table, native);
    if (rc == NETKIT_OK && place == 0) {
        rc = NETKIT_E_NOTFOUND;
    }
    if (rc == NETKIT_OK) {
        nki_wsapoll_set(po, place - 1, events, data);
    }
    return rc;
}

static int nki_wsapoll_remove(nki_poller *p, uintptr_t native) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    uint32_t place = nki_socket_table_get(&po->table, native);
    if (place == 0) {
        return NETKIT_E_NOTFOUND;
    }
    nki_wsapoll_set_mute(po, place - 1, false);
    uint32_t at = nki_wsapoll_sort(po, place - 1, false);
    nki_wsapoll_swap(po, at, --po->count);
    nki_socket_table_drop(&po->table, native);
    return NETKIT_OK;
}

/* ---- waiting ---- */

/* Turn what the system said of one entry into an event; ends what must be said only once. Returns
 * how many events it is: one, or none when nothing of it was asked for. */
static int nki_wsapoll_report(nki_wsapoll *po, uint32_t at, netkit_poll_event *event) {
    nki_wsapoll_slot *slot = &po->slots[at];
    short said = po->fds[at].revents;
    bool is_gone = (said & POLLNVAL) != 0;
    po->fds[at].revents = 0;
    event->data = slot->data;
    event->events = is_gone ? (uint32_t)NETKIT_POLL_ERROR
                            : nki_wsapoll_to(said) & nki_poller_allowed(slot->events);
    if (event->events == 0) {
        nki_wsapoll_set_mute(po, at, true);
        return 0;
    }
    if (is_gone || (slot->events & NETKIT_POLL_ONESHOT) != 0) {
        slot->events = 0;
    }
    return 1;
}

/* Those that have become silent in this scan go behind the others after it. */
static void nki_wsapoll_silence(nki_wsapoll *po) {
    for (uint32_t at = po->speaking; at-- > 0;) {
        if (po->slots[at].events == 0 || po->slots[at].is_mute) {
            (void)nki_wsapoll_sort(po, at, false);
        }
    }
}

static int nki_wsapoll_scan(nki_wsapoll *po, netkit_poll_event *events, int most) {
    int n = 0;
    bool is_silenced = false;
    uint32_t at = po->next < po->speaking ? po->next : 0;
    for (uint32_t i = 0; i < po->speaking && n < most; i++) {
        if (po->fds[at].revents != 0) {
            n += nki_wsapoll_report(po, at, &events[n]);
            is_silenced = is_silenced || po->slots[at].events == 0 || po->slots[at].is_mute;
            po->next = at + 1;
        }
        at = at + 1 < po->speaking ? at + 1 : 0;
    }
    if (is_silenced) {
        nki_wsapoll_silence(po);
    }
    return n;
}

static void nki_wsapoll_unmute(nki_wsapoll *po) {
    for (uint32_t at = po->speaking; po->mute > 0 && at < po->count; at++) {
        if (po->slots[at].is_mute) {
            nki_wsapoll_set_mute(po, at, false);
            (void)nki_wsapoll_sort(po, at, true);
        }
    }
}

/* Wine does not count those that are closed: so all are looked at, whatever it says. */
static int nki_wsapoll_wait(nki_poller *p, netkit_poll_event *events, int max,
                            uint64_t timeout_ns) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    uint64_t deadline_ns = nki_poller_deadline(timeout_ns);
    for (;;) {
        int ms = nki_poller_left_ms(deadline_ns);
        bool is_cut = po->mute > 0 && (ms < 0 || ms > NKI_WSAPOLL_MUTE_MS);
        int ready = NKI_SYS_poll(po->fds, (ULONG)po->speaking, is_cut ? NKI_WSAPOLL_MUTE_MS : ms);
        if (ready < 0) {
            return WSAGetLastError() == WSAEINTR ? 0 : nki_os_error();
        }
        nki_wsapoll_unmute(po);
        int n = nki_wsapoll_scan(po, events, max);
        if (n > 0 || ms == 0 || nki_poller_left_ms(deadline_ns) == 0) {
            return n;
        }
    }
}

static const nki_poller_ops *nki_wsapoll_ops(void) {
    static const nki_poller_ops ops = {
        "wsapoll",
        NETKIT_BACKEND_WSAPOLL,
        false,
        nki_wsapoll_open,
        nki_wsapoll_close,
        nki_wsapoll_add,
        nki_wsapoll_modify,
        nki_wsapoll_remove,
        nki_wsapoll_wait,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
    };
    return &ops;
}

#endif /* NKI_HAS_WSAPOLL */

/* ---- src/poll/poller.c ---- */
/* The choice of a backend, and netkit_poller: the pollers for programs with a loop of their own.
 *
 * A netkit_poller adds one thing to its backend, a wake that any thread or signal handler may
 * send. It comes as an event like the user's, and must be told from them although their data may
 * be any 64-bit number: it carries a random number drawn from the kernel, unknown outside, and
 * should a user's data ever be equal to it, another is drawn.
 * Wakes are coalesced: `is_woken` is set by the first and cleared by the wait that swallows it.
 * That wait first takes the wake in and only then clears the flag: the other way round, a
 * wake in between would be emptied away with the flag left set, and every later one be lost. */

static const nki_poller_ops *nki_poller_find(int backend) {
#if NKI_HAS_EPOLL
    if (backend == NETKIT_BACKEND_EPOLL) {
        return nki_epoll_ops();
    }
#endif
#if NKI_HAS_KQUEUE
    if (backend == NETKIT_BACKEND_KQUEUE) {
        return nki_kqueue_ops();
    }
#endif
#if NKI_HAS_POLL
    if (backend == NETKIT_BACKEND_POLL) {
        return nki_poll_ops();
    }
#endif
#if NKI_HAS_AFD
    if (backend == NETKIT_BACKEND_AFD) {
        return nki_afd_ops();
    }
#endif
#if NKI_HAS_WSAPOLL
    if (backend == NETKIT_BACKEND_WSAPOLL) {
        return nki_wsapoll_ops();
    }
#endif
    return NULL;
}

static int nki_poller_open_as(nki_poller *p, int backend) {
    p->ops = nki_poller_find(backend);
    return p->ops == NULL ? (int)NETKIT_E_NOSYS : p->ops->open(p);
}

static int nki_poller_open(nki_poller *p, int backend, const netkit_allocator *allocator) {
    static const int automatic[] = {NETKIT_BACKEND_EPOLL, NETKIT_BACKEND_KQUEUE, NETKIT_BACKEND_AFD,
                                    NETKIT_BACKEND_POLL, NETKIT_BACKEND_WSAPOLL};
    memset(p, 0, sizeof(*p));
    p->allocator = *allocator;
    p->native = UINTPTR_MAX;
    if (netkit_backend_name(backend) == NULL) {
        return NETKIT_E_INVALID;
    }
    if (backend != NETKIT_BACKEND_AUTO && backend != NETKIT_BACKEND_FASTEST) {
        return nki_poller_open_as(p, backend);
    }
    int rc = NETKIT_E_NOSYS;
    for (size_t i = 0; i < NKI_COUNT(automatic) && rc != NETKIT_OK; i++) {
        /* What is not in this build says nothing about why the others failed. */
        int one = nki_poller_open_as(p, automatic[i]);
        rc = one == NETKIT_OK || p->ops != NULL ? one : rc;
    }
    return rc;
}

static void nki_poller_close(nki_poller *p) {
    if (p->ops != NULL && p->state != NULL) {
        p->ops->close(p);
    }
    p->ops = NULL;
    p->state = NULL;
    p->native = UINTPTR_MAX;
}

static int nki_poller_wake_open(nki_poller *p, nki_wake *wake, uint64_t data) {
    if (p->ops->wake_set != NULL) {
        wake->reader = wake->writer = UINTPTR_MAX;
        return p->ops->wake_set(p, data);
    }
    int rc = nki_os_wake_open(wake);
    if (rc == NETKIT_OK) {
        rc = p->ops->add(p, wake->reader, NETKIT_POLL_READ, data);
        if (rc != NETKIT_OK) {
            nki_os_wake_close(wake);
        }
    }
    return rc;
}

static int nki_poller_wake_move(nki_poller *p, const nki_wake *wake, uint64_t data) {
    if (p->ops->wake_set != NULL) {
        return p->ops->wake_set(p, data);
    }
    return p->ops->modify(p, wake->reader, NETKIT_POLL_READ, data);
}

/* A loop without a poller has a descriptor. */
static int nki_poller_wake_signal(const nki_poller *p, const nki_wake *wake) {
    return p->ops != NULL && p->ops->wake != NULL ? p->ops->wake(p) : nki_os_wake_signal(wake);
}

static void nki_poller_wake_drain(const nki_poller *p, const nki_wake *wake) {
    if (p->ops->wake == NULL) {
        nki_os_wake_drain(wake);
    }
}

static const char *const *nki_backend_names(void) {
    static const char *const names[NETKIT_BACKEND_SIM + 1] = {
        "auto", "fastest", "epoll", "uring", "poll", "kqueue", "afd", "wsapoll", "sim",
    };
    return names;
}

NETKIT_API const char *netkit_backend_name(int backend) {
    bool is_one = backend >= 0 && backend <= (int)NETKIT_BACKEND_SIM;
    return is_one ? nki_backend_names()[backend] : NULL;
}

NETKIT_API int netkit_backend_from_name(const char *name) {
    for (int i = 0; name != NULL && i <= (int)NETKIT_BACKEND_SIM; i++) {
        if (strcmp(nki_backend_names()[i], name) == 0) {
            return i;
        }
    }
    return NETKIT_E_NOTFOUND;
}

struct netkit_poller {
    nki_poller base;
    nki_wake wake;
    uint64_t wake_data;
    uint32_t is_woken; /* atomic */
};

/* Everything that can fail, in order; on failure the poller holds nothing but itself. */
static int nki_poller_setup(netkit_poller *poller, int backend, const netkit_allocator *allocator) {
    int rc = nki_os_random(&poller->wake_data, sizeof(poller->wake_data));
    if (rc == NETKIT_OK) {
        rc = nki_os_begin();
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_poller_open(&poller->base, backend, allocator);
    if (rc == NETKIT_OK) {
        rc = nki_poller_wake_open(&poller->base, &poller->wake, poller->wake_data);
        if (rc != NETKIT_OK) {
            nki_poller_close(&poller->base);
        }
    }
    if (rc != NETKIT_OK) {
        nki_os_end();
    }
    return rc;
}

NETKIT_API int netkit_poller_create(netkit_poller **out, const netkit_poller_desc *desc) {
    netkit_poller_desc defaults;
    netkit_allocator allocator;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    *out = NULL;
    memset(&defaults, 0, sizeof(defaults));
    desc = desc != NULL ? desc : &defaults;
    int rc = nki_allocator_init(&allocator, &desc->allocator);
    if (rc != NETKIT_OK) {
        return rc;
    }
    netkit_poller *poller = (netkit_poller *)nki_alloc_zero(&allocator, sizeof(*poller));
    if (poller == NULL) {
        return NETKIT_E_NOMEM;
    }
    rc = nki_poller_setup(poller, desc->backend, &allocator);
    if (rc != NETKIT_OK) {
        nki_free(&allocator, poller, sizeof(*poller));
        return rc;
    }
    *out = poller;
    return NETKIT_OK;
}

NETKIT_API void netkit_poller_destroy(netkit_poller *poller) {
    if (poller != NULL) {
        netkit_allocator allocator = poller->base.allocator;
        nki_poller_close(&poller->base);
        nki_os_wake_close(&poller->wake);
        nki_os_end();
        nki_free(&allocator, poller, sizeof(*poller));
    }
}

/* Give way to a user whose data is the wake's. */
static int nki_poller_yield_data(netkit_poller *poller, uint64_t data) {
    uint64_t other = data;
    while (other == data) {
        int rc = nki_os_random(&other, sizeof(other));
        if (rc != NETKIT_OK) {
            return rc;
        }
    }
    int rc = nki_poller_wake_move(&poller->base, &poller->wake, other);
    if (rc == NETKIT_OK) {
        poller->wake_data = other;
    }
    return rc;
}

static int nki_poller_check(netkit_poller *poller, uintptr_t native) {
    /* The wake's own descriptor is not the user's to touch. */
    return poller == NULL || native == poller->wake.reader ? NETKIT_E_INVALID : NETKIT_OK;
}

NETKIT_API int netkit_poller_add(netkit_poller *poller, uintptr_t native, uint32_t events,
                                 uint64_t data) {
    int rc = nki_poller_check(poller, native);
    if (rc == NETKIT_OK && data == poller->wake_data) {
        rc = nki_poller_yield_data(poller, data);
    }
    return rc == NETKIT_OK ? poller->base.ops->add(&poller->base, native, events, data) : rc;
}

NETKIT_API int netkit_poller_modify(netkit_poller *poller, uintptr_t native, uint32_t events,
                                    uint64_t data) {
    int rc = nki_poller_check(poller, native);
    if (rc == NETKIT_OK && data == poller->wake_data) {
        rc = nki_poller_yield_data(poller, data);
    }
    return rc == NETKIT_OK ? poller->base.ops->modify(&poller->base, native, events, data) : rc;
}

NETKIT_API int netkit_poller_remove(netkit_poller *poller, uintptr_t native) {
    int rc = nki_poller_check(poller, native);
    return rc == NETKIT_OK ? poller->base.ops->remove(&poller->base, native) : rc;
}

/* Take the wake out of what a wait returned. */
static int nki_poller_swallow(netkit_poller *poller, netkit_poll_event *events, int n) {
    for (int i = 0; i < n; i++) {
        if (events[i].data == poller->wake_data) {
            nki_poller_wake_drain(&poller->base, &poller->wake);
            (void)nki_atomic_exchange(&poller->is_woken, 0);
            memmove(&events[i], &events[i + 1], (size_t)(n - i - 1) * sizeof(events[0]));
            return n - 1;
        }
    }
    return n;
}

NETKIT_API int netkit_poller_wait(netkit_poller *poller, netkit_poll_event *events, int max,
                                  int64_t timeout_us) {
    uint64_t timeout_ns = NKI_NEVER;
    if (poller == NULL || events == NULL || max < 1) {
        return NETKIT_E_INVALID;
    }
    if (timeout_us >= 0 && (uint64_t)timeout_us < NKI_NEVER / NKI_NS_PER_US) {
        timeout_ns = (uint64_t)timeout_us * NKI_NS_PER_US;
    }
    int n = poller->base.ops->wait(&poller->base, events, max, timeout_ns);
    return n > 0 ? nki_poller_swallow(poller, events, n) : n;
}

NETKIT_API int netkit_poller_wake(netkit_poller *poller) {
    if (poller == NULL) {
        return NETKIT_E_INVALID;
    }
    if (nki_atomic_exchange(&poller->is_woken, 1) != 0) {
        return NETKIT_OK;
    }
    int rc = nki_poller_wake_signal(&poller->base, &poller->wake);
    if (rc != NETKIT_OK) {
        (void)nki_atomic_exchange(&poller->is_woken, 0);
    }
    return rc;
}

NETKIT_API const char *netkit_poller_backend(const netkit_poller *poller) {
    return poller != NULL ? poller->base.ops->name : NULL;
}

/* ---- src/uring/ring.h ---- */
/* io_uring by raw system calls: the kernel's interface in our own words, and the ring on it.
 *
 * The numbers and layouts are those of <linux/io_uring.h>, which never change, but which old
 * systems' headers have only in part (Debian 12: 6.1). What each kernel knows is found out by
 * asking it, at run time. */

#if NKI_HAS_URING

/* Operations. */
enum {
    NKI_URING_NOP = 0,
    NKI_URING_POLL_ADD = 6,
    NKI_URING_RECVMSG = 10,
    NKI_URING_ACCEPT = 13,
    NKI_URING_CANCEL = 14,
    NKI_URING_CONNECT = 16,
    NKI_URING_SEND = 26,
    NKI_URING_RECV = 27,
    NKI_URING_OP_5_19 = 45, /* SOCKET: multishot accept is there */
    NKI_URING_SEND_ZC = 47,
    NKI_URING_OP_6_0 = 47, /* SEND_ZC: multishot receive is there */
    NKI_URING_MESSAGE = 40
};

/* io_uring_params.flags */
#define NKI_URING_SETUP_SQPOLL (1u << 1)
#define NKI_URING_SETUP_SQ_AFF (1u << 2)
#define NKI_URING_SETUP_CQSIZE (1u << 3)
#define NKI_URING_SETUP_DISABLED (1u << 6)
#define NKI_URING_SETUP_SUBMIT_ALL (1u << 7)     /* 5.18 */
#define NKI_URING_SETUP_COOP_TASKRUN (1u << 8)   /* 5.19 */
#define NKI_URING_SETUP_TASKRUN_FLAG (1u << 9)   /* 5.19 */
#define NKI_URING_SETUP_SINGLE_ISSUER (1u << 12) /* 6.0 */
#define NKI_URING_SETUP_DEFER_TASKRUN (1u << 13) /* 6.1 */
#define NKI_URING_SETUP_NO_SQARRAY (1u << 16)    /* 6.6 */

/* io_uring_params.features */
#define NKI_URING_FEAT_SINGLE_MMAP (1u << 0)
#define NKI_URING_FEAT_NODROP (1u << 1)
#define NKI_URING_FEAT_SUBMIT_STABLE (1u << 2)
#define NKI_URING_FEAT_FAST_POLL (1u << 5)
#define NKI_URING_FEAT_EXT_ARG (1u << 8)
#define NKI_URING_FEAT_RSRC_TAGS (1u << 10) /* 5.13: polls that go on are there */
#define NKI_URING_FEAT_CQE_SKIP (1u << 11)
#define NKI_URING_FEAT_NO_IOWAIT (1u << 17) /* 6.15 */
#define NKI_URING_FEAT_NEEDED                                                            \
    (NKI_URING_FEAT_SINGLE_MMAP | NKI_URING_FEAT_NODROP | NKI_URING_FEAT_SUBMIT_STABLE | \
     NKI_URING_FEAT_FAST_POLL | NKI_URING_FEAT_EXT_ARG | NKI_URING_FEAT_RSRC_TAGS)

#define NKI_URING_ENTER_GETEVENTS (1u << 0)
#define NKI_URING_ENTER_SQ_WAKEUP (1u << 1)
#define NKI_URING_ENTER_SQ_WAIT (1u << 2)
#define NKI_URING_ENTER_EXT_ARG (1u << 3)
#define NKI_URING_ENTER_REGISTERED (1u << 4)
#define NKI_URING_ENTER_NO_IOWAIT (1u << 7)

enum {
    NKI_URING_REGISTER_FILES = 2,
    NKI_URING_UNREGISTER_FILES = 3,
    NKI_URING_UPDATE_FILES = 6,
    NKI_URING_REGISTER_PROBE = 8,
    NKI_URING_REGISTER_ENABLE = 12,
    NKI_URING_REGISTER_RING = 20,
    NKI_URING_UNREGISTER_RING = 21,
    NKI_URING_REGISTER_BUFFERS = 22,
    NKI_URING_UNREGISTER_BUFFERS = 23,
    NKI_URING_REGISTER_NAPI = 27,   /* 6.9 */
    NKI_URING_REGISTER_MESSAGE = 31 /* 6.13: a message to a ring by who has none */
};

#define NKI_URING_SQES_OFFSET 0x10000000
#define NKI_URING_SQ_NEED_WAKEUP (1u << 0) /* in the flags of the submission side */
#define NKI_URING_SQ_CQ_OVERFLOW (1u << 1)
#define NKI_URING_SQ_TASKRUN (1u << 2)

/* io_uring_sqe.flags, .ioprio and .len of single operations */
#define NKI_URING_SQE_FIXED_FILE (1u << 0)
#define NKI_URING_SQE_BUFFER_SELECT (1u << 5)
#define NKI_URING_SQE_SKIP_SUCCESS (1u << 6)
#define NKI_URING_ACCEPT_MULTISHOT (1u << 0)
#define NKI_URING_RECV_POLL_FIRST (1u << 0)
#define NKI_URING_RECV_MULTISHOT (1u << 1)
#define NKI_URING_POLL_MULTISHOT (1u << 0)
#define NKI_URING_SEND_ZC_REPORT (1u << 3) /* say in the notification whether it was a copy */

/* io_uring_cqe.flags */
#define NKI_URING_CQE_BUFFER (1u << 0)      /* a buffer's number is in the upper half */
#define NKI_URING_CQE_MORE (1u << 1)        /* the operation goes on */
#define NKI_URING_CQE_BUFFER_MORE (1u << 4) /* the kernel goes on filling this buffer */
#define NKI_URING_CQE_NOTIF (1u << 3)       /* the memory of a zero-copy send is free */
#define NKI_URING_NOTIF_COPIED (1u << 31)   /* and was copied after all */

typedef struct nki_uring_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;
    uint64_t addr;
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buffer_group;
    uint16_t personality;
    uint32_t file_index;
    uint64_t addr3;
    uint64_t pad;
} nki_uring_sqe;

typedef struct nki_uring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
} nki_uring_cqe;

/* What a receive of messages that goes on puts in front of each, before the sender and the control
 * messages (struct io_uring_recvmsg_out). */
typedef struct nki_uring_came {
    uint32_t name_len;
    uint32_t control_len;
    uint32_t len;
    uint32_t flags; /* MSG_TRUNC, MSG_CTRUNC */
} nki_uring_came;

typedef struct nki_uring_offsets {
    uint32_t head, tail, mask, entries, a, b, c, d;
    uint64_t user_addr;
} nki_uring_offsets;

typedef struct nki_uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
    uint32_t reserved[3];
    nki_uring_offsets sq; /* a flags, b dropped, c array */
    nki_uring_offsets cq; /* a overflow, b cqes, c flags */
} nki_uring_params;

typedef struct nki_uring_wait_arg {
    uint64_t sigmask;
    uint32_t sigmask_size;
    uint32_t min_wait_us;
    uint64_t time;
} nki_uring_wait_arg;

typedef struct nki_uring_time {
    int64_t seconds;
    int64_t nanoseconds;
} nki_uring_time;

typedef struct nki_uring_probe {
    uint8_t last_op;
    uint8_t count;
    uint16_t reserved[7];
    struct {
        uint8_t op;
        uint8_t reserved;
        uint16_t flags; /* bit 0: supported */
        uint32_t reserved2;
    } ops[64];
} nki_uring_probe;

typedef struct nki_uring_update {
    uint32_t offset;
    uint32_t reserved;
    uint64_t data;
} nki_uring_update;

/* One place of a ring of provided buffers. In the first one `tail` is the ring's own. */
typedef struct nki_uring_buffer {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t tail;
} nki_uring_buffer;

#define NKI_URING_BUFFERS_SHARED 2u /* incremental, 6.12 */

typedef struct nki_uring_buffers_reg {
    uint64_t addr;
    uint32_t entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
} nki_uring_buffers_reg;

typedef struct nki_uring_napi {
    uint32_t busy_poll_us;
    uint8_t is_preferred;
    uint8_t opcode;
    uint8_t reserved[2];
    uint32_t op_param;
    uint32_t reserved2;
} nki_uring_napi;

NKI_STATIC_ASSERT(napi_size, sizeof(nki_uring_napi) == 16);
NKI_STATIC_ASSERT(sqe_size, sizeof(nki_uring_sqe) == 64);
NKI_STATIC_ASSERT(cqe_size, sizeof(nki_uring_cqe) == 16);
NKI_STATIC_ASSERT(params_size, sizeof(nki_uring_params) == 120);
NKI_STATIC_ASSERT(buffer_size, sizeof(nki_uring_buffer) == 16);
NKI_STATIC_ASSERT(buffers_reg_size, sizeof(nki_uring_buffers_reg) == 40);

/* What is had on request only. */
typedef struct nki_uring_wish {
    uint32_t sqpoll_ms; /* a thread of the kernel submits, sleeping when idle for so long; 0 = no */
    uint32_t sqpoll_cpu; /* on this processor, from 1; 0 = any */
    uint32_t napi_us;    /* waits poll the network device for so long; 0 = no */
    bool is_foreign;     /* poll(2) of the ring must wake */
    bool is_small;       /* for a few operations */
} nki_uring_wish;

typedef struct nki_uring {
    int fd;       /* -1 = none */
    int enter_fd; /* the same, or its registered number */
    uint32_t enter_flags;
    uintptr_t thread; /* that enabled it */
    uint32_t flags;   /* NKI_URING_SETUP_* it was made with */
    uint32_t features;
    uint32_t sq_entries;
    uint32_t sq_mask;
    uint32_t cq_mask;
    uint32_t sqe_tail; /* filled up to here; the kernel has been told up to *sq_tail */
    uint32_t *sq_head;
    uint32_t *sq_tail;
    uint32_t *sq_flags;
    uint32_t *cq_head;
    uint32_t *cq_tail;
    nki_uring_sqe *sqes;
    nki_uring_cqe *cqes;
    unsigned char *map; /* both rings */
    size_t map_size;
    size_t sqes_size;
    bool is_enabled;
    bool has_lost; /* completions, as the kernel had no memory to keep them beyond its places */
    uint64_t ops;  /* NKI_URING_OP bits of those it knows */
} nki_uring;

static bool nki_uring_has(const nki_uring *r, unsigned op) {
    return (r->ops >> op & 1u) != 0;
}

#endif /* NKI_HAS_URING */

/* ---- src/uring/ring.c ---- */
/* The ring itself: set up, told what to do, waited for, read.
 *
 * It is made disabled and enabled by the thread that first waits on it: with SINGLE_ISSUER the
 * kernel binds it to that thread, and with DEFER_TASKRUN completions are made nowhere but in
 * that thread's own calls that ask for events, so every wait asks, even one that does not block.
 * Each step of the ladder below is what one more kernel can do. Ring memory is charged to
 * RLIMIT_MEMLOCK (seen on 6.18: 64 KiB allows 512 entries), so ENOMEM means: try smaller.
 * A forked child must not touch a ring: its memory is not inherited. */

#if NKI_HAS_URING

enum {
    NKI_URING_SQ_ENTRIES = 256,
    NKI_URING_CQ_ENTRIES = 4096,
    NKI_URING_SQ_LEAST = 16
};

static void nki_uring_init(nki_uring *r) {
    memset(r, 0, sizeof *r);
    r->fd = -1;
    r->enter_fd = -1;
}

/* The kernel holds the ring for the thread that registered it until told otherwise, or its end. */
static void nki_uring_unregister(nki_uring *r) {
    if ((r->enter_flags & NKI_URING_ENTER_REGISTERED) != 0 && r->thread == NKI_SYS_gettid()) {
        nki_uring_update update;
        memset(&update, 0, sizeof update);
        update.offset = (uint32_t)r->enter_fd;
        (void)NKI_SYS_io_uring_register(r->fd, NKI_URING_UNREGISTER_RING, &update, 1u);
        r->enter_flags = 0;
        r->enter_fd = r->fd;
    }
}

static void nki_uring_close(nki_uring *r) {
    if (r->sqes != NULL) {
        (void)NKI_SYS_munmap(r->sqes, r->sqes_size);
    }
    if (r->map != NULL) {
        (void)NKI_SYS_munmap(r->map, r->map_size);
    }
    nki_uring_unregister(r);
    if (r->fd >= 0) {
        nki_os_abandon((uintptr_t)r->fd);
    }
    nki_uring_init(r);
}

/* ---- setting up ---- */

/* The same with a thread of the kernel that submits: it refuses the flags for deferring work. */
static uint32_t nki_uring_step_polled(unsigned step) {
    const uint32_t least =
        NKI_URING_SETUP_CQSIZE | NKI_URING_SETUP_DISABLED | NKI_URING_SETUP_SQPOLL;
    const uint32_t best = least | NKI_URING_SETUP_SUBMIT_ALL | NKI_URING_SETUP_SINGLE_ISSUER;
    switch (step) {
    case 0: return best | NKI_URING_SETUP_NO_SQARRAY;
    case 1: return best;
    case 2: return least;
    default: return 0;
    }
}

enum {
    NKI_URING_STEP_FOREIGN = 2 /* the first without DEFER_TASKRUN */
};

/* Flags, best first. Returns 0 beyond the last step. */
static uint32_t nki_uring_step(unsigned step) {
    const uint32_t least = NKI_URING_SETUP_CQSIZE | NKI_URING_SETUP_DISABLED;
    const uint32_t coop = least | NKI_URING_SETUP_SUBMIT_ALL | NKI_URING_SETUP_COOP_TASKRUN;
    const uint32_t best = least | NKI_URING_SETUP_SUBMIT_ALL | NKI_URING_SETUP_SINGLE_ISSUER |
                          NKI_URING_SETUP_DEFER_TASKRUN | NKI_URING_SETUP_TASKRUN_FLAG;
    switch (step) {
    case 0: return best | NKI_URING_SETUP_NO_SQARRAY;
    case 1: return best;
    case 2: return coop | NKI_URING_SETUP_SINGLE_ISSUER;
    case 3: return coop;
    case 4: return least | NKI_URING_SETUP_SUBMIT_ALL;
    case 5: return least;
    default: return 0;
    }
}

/* Down the ladder while the kernel does not know a flag, and then in size while it has no memory.
 * Returns 0 or an errno. */
static int nki_uring_setup(nki_uring *r, nki_uring_params *p, const nki_uring_wish *wish) {
    uint32_t (*flags_of)(unsigned) = wish->sqpoll_ms != 0 ? nki_uring_step_polled : nki_uring_step;
    uint32_t entries = wish->is_small ? NKI_URING_SQ_LEAST : NKI_URING_SQ_ENTRIES;
    unsigned step = wish->is_foreign ? NKI_URING_STEP_FOREIGN : 0;
    while (entries >= NKI_URING_SQ_LEAST) {
        memset(p, 0, sizeof *p);
        p->flags = flags_of(step);
        p->sq_thread_idle = wish->sqpoll_ms;
        if (wish->sqpoll_ms != 0 && wish->sqpoll_cpu != 0) {
            p->flags |= NKI_URING_SETUP_SQ_AFF;
            p->sq_thread_cpu = wish->sqpoll_cpu - 1;
        }
        p->cq_entries = entries * (NKI_URING_CQ_ENTRIES / NKI_URING_SQ_ENTRIES);
        r->fd = NKI_SYS_io_uring_setup(entries, p);
        if (r->fd >= 0) {
            r->flags = p->flags;
            r->features = (uint32_t)NKI_MASK(io_uring_features, p->features);
            return 0;
        }
        if (errno == EINVAL && flags_of(step + 1) != 0) {
            step++;
        } else if (errno == ENOMEM) {
            entries /= 4;
        } else {
            break;
        }
    }
    return errno;
}

static uint32_t *nki_uring_word(nki_uring *r, uint32_t offset) {
    return (uint32_t *)(void *)(r->map + offset);
}

static void nki_uring_place(nki_uring *r, const nki_uring_params *p) {
    r->sq_entries = p->sq_entries;
    r->sq_mask = p->sq_entries - 1;
    r->cq_mask = p->cq_entries - 1;
    r->sq_head = nki_uring_word(r, p->sq.head);
    r->sq_tail = nki_uring_word(r, p->sq.tail);
    r->sq_flags = nki_uring_word(r, p->sq.a);
    r->cq_head = nki_uring_word(r, p->cq.head);
    r->cq_tail = nki_uring_word(r, p->cq.tail);
    r->cqes = (nki_uring_cqe *)(void *)(r->map + p->cq.b);
    r->sqe_tail = *r->sq_tail;
    if ((r->flags & NKI_URING_SETUP_NO_SQARRAY) == 0) {
        uint32_t *array = nki_uring_word(r, p->sq.c);
        for (uint32_t i = 0; i < p->sq_entries; i++) {
            array[i] = i;
        }
    }
}

static int nki_uring_map(nki_uring *r, const nki_uring_params *p) {
    bool has_array = (p->flags & NKI_URING_SETUP_NO_SQARRAY) == 0;
    size_t sq_size = has_array ? p->sq.c + p->sq_entries * sizeof(uint32_t) : 0;
    size_t cq_size = p->cq.b + p->cq_entries * sizeof(nki_uring_cqe);
    size_t size = NKI_MAX(sq_size, cq_size);
    void *map = NKI_SYS_mmap(size, MAP_SHARED | MAP_POPULATE, r->fd, 0);
    if (map == MAP_FAILED) {
        return errno;
    }
    r->map = (unsigned char *)map;
    r->map_size = size;
    size = p->sq_entries * sizeof(nki_uring_sqe);
    map = NKI_SYS_mmap(size, MAP_SHARED | MAP_POPULATE, r->fd, NKI_URING_SQES_OFFSET);
    if (map == MAP_FAILED) {
        return errno;
    }
    r->sqes = (nki_uring_sqe *)map;
    r->sqes_size = size;
    (void)NKI_SYS_madvise(r->map, r->map_size, MADV_DONTFORK);
    (void)NKI_SYS_madvise(r->sqes, r->sqes_size, MADV_DONTFORK);
    nki_uring_place(r, p);
    return 0;
}

/* Ask what it can do; also finds a sandbox that allows setting up and nothing more. */
static int nki_uring_ask(nki_uring *r) {
    static const uint8_t needed[] = {NKI_URING_POLL_ADD, NKI_URING_ACCEPT, NKI_URING_CANCEL,
                                     NKI_URING_SEND, NKI_URING_RECV};
    nki_uring_probe probe;
    uint64_t ops = 0;
    memset(&probe, 0, sizeof probe);
    if (NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_PROBE, &probe,
                                  (unsigned)NKI_COUNT(probe.ops)) != 0) {
        return errno;
    }
    for (size_t i = 0; i < NKI_COUNT(probe.ops) && i <= probe.last_op; i++) {
        ops |= (uint64_t)(probe.ops[i].flags & 1u) << i;
    }
    r->ops = NKI_MASK(io_uring_ops, ops);
    for (size_t i = 0; i < NKI_COUNT(needed); i++) {
        if (!nki_uring_has(r, needed[i])) {
            return ENOSYS;
        }
    }
    /* A disabled ring says EBADFD: any other trouble is a sandbox's. */
    if (NKI_SYS_io_uring_enter(r->fd, 0u, 0u, 0u, NULL, (size_t)0) < 0 && errno != EBADFD) {
        return errno;
    }
    return 0;
}

/* Poll the device while waiting. Only a kernel with that built in knows the call. */
static int nki_uring_set_napi(const nki_uring *r, uint32_t busy_poll_us) {
    nki_uring_napi napi;
    memset(&napi, 0, sizeof napi);
    napi.busy_poll_us = busy_poll_us;
    return NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_NAPI, &napi, 1u) != 0 ? errno : 0;
}

/* Make one. Returns 0 or an errno, and then *where names the call that failed. */
static int nki_uring_open(nki_uring *r, const nki_uring_wish *wish, const char **where) {
    nki_uring_params params;
    nki_uring_init(r);
    *where = wish->sqpoll_ms != 0 ? "io_uring_setup with a polling thread" : "io_uring_setup";
    int error = nki_uring_setup(r, &params, wish);
    if (error == 0 && (r->features & NKI_URING_FEAT_NEEDED) != NKI_URING_FEAT_NEEDED) {
        error = ENOSYS;
    }
    if (error == 0) {
        *where = "mmap of the ring";
        error = nki_uring_map(r, &params);
    }
    if (error == 0) {
        *where = "io_uring_register or io_uring_enter";
        error = nki_uring_ask(r);
    }
    if (error == 0 && wish->napi_us != 0) {
        *where = "busy polling of the network device";
        error = nki_uring_set_napi(r, wish->napi_us);
    }
    if (error != 0) {
        nki_uring_close(r);
    }
    return error;
}

/* Bind it to this thread. Registering the ring saves each call a look-up of its descriptor. */
static int nki_uring_enable(nki_uring *r) {
    if (r->is_enabled) {
        return 0;
    }
    if (NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_ENABLE, NULL, 0u) != 0) {
        return errno;
    }
    r->is_enabled = true;
    r->thread = NKI_SYS_gettid();
    nki_uring_update update;
    update.offset = UINT32_MAX;
    update.reserved = 0;
    update.data = (uint64_t)r->fd;
    r->enter_fd = r->fd;
    if (NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_RING, &update, 1u) == 1) {
        r->enter_fd = (int)update.offset;
        r->enter_flags = NKI_URING_ENTER_REGISTERED;
    }
    return 0;
}

/* ---- using ---- */

/* From any thread: have a completion with that user_data appear in the ring of this descriptor.
 * Returns 0 or an errno; EBADFD says that it is not enabled yet. */
static int nki_uring_message(int fd, uint64_t user_data) {
    nki_uring_sqe sqe;
    memset(&sqe, 0, sizeof sqe);
    sqe.opcode = NKI_URING_MESSAGE;
    sqe.fd = fd;
    sqe.off = user_data;
    return NKI_SYS_io_uring_message(NKI_URING_REGISTER_MESSAGE, &sqe) != 0 ? errno : 0;
}

/* A fresh ring takes the place and the descriptor of the old one, so that who sends it a message
 * meanwhile never meets a stranger's. Returns 0, or an errno and has closed the fresh one. */
static int nki_uring_replace(nki_uring *old, nki_uring *fresh) {
    int fd = old->fd;
    nki_uring_unregister(old);
    if (NKI_SYS_dup3(fresh->fd, fd, O_CLOEXEC) < 0) {
        int os_code = errno;
        nki_uring_close(fresh);
        return os_code;
    }
    nki_os_abandon((uintptr_t)fresh->fd);
    old->fd = -1;
    nki_uring_close(old);
    *old = *fresh;
    old->fd = fd;
    return 0;
}

static uint32_t nki_uring_unsubmitted(const nki_uring *r) {
    return r->sqe_tail - nki_atomic_load(r->sq_head);
}

static uint32_t nki_uring_unread(const nki_uring *r) {
    uint32_t count = nki_atomic_load(r->cq_tail) - *r->cq_head;
    return NKI_SYS_io_uring_cqes(count);
}

/* Whether there is deferred work that the kernel has not done for want of a call. */
static bool nki_uring_has_work(const nki_uring *r) {
    return (nki_atomic_load(r->sq_flags) & NKI_URING_SQ_TASKRUN) != 0;
}

/* The kernel's thread takes what is filled in by itself, unless it has gone to sleep. Who has no
 * place left waits until it has taken something. */
static uint32_t nki_uring_poke(const nki_uring *r) {
    if ((r->flags & NKI_URING_SETUP_SQPOLL) == 0) {
        return 0;
    }
    nki_atomic_fence(); /* between our tail and its flag, as io_uring_setup(2) asks for */
    bool is_asleep = (nki_atomic_load(r->sq_flags) & NKI_URING_SQ_NEED_WAKEUP) != 0;
    bool is_full = nki_uring_unsubmitted(r) == r->sq_entries;
    return (is_asleep ? NKI_URING_ENTER_SQ_WAKEUP : 0) | (is_full ? NKI_URING_ENTER_SQ_WAIT : 0);
}

/* Submit what is filled in, and wait for an event up to timeout_ns (0: only look). Returns 0, or
 * the errno of a failure that is none of the everyday: those mean "look at what there is". */
static int nki_uring_enter(nki_uring *r, uint64_t timeout_ns) {
    nki_uring_wait_arg arg;
    nki_uring_time time;
    uint32_t flags = NKI_URING_ENTER_GETEVENTS | NKI_URING_ENTER_EXT_ARG | r->enter_flags;
    memset(&arg, 0, sizeof arg);
    if ((r->features & NKI_URING_FEAT_NO_IOWAIT) != 0) { /* else it waits for a disk, says top(1) */
        flags |= NKI_URING_ENTER_NO_IOWAIT;
    }
    if (timeout_ns != 0 && timeout_ns != NKI_NEVER) {
        time.seconds = (int64_t)(timeout_ns / NKI_NS_PER_S);
        time.nanoseconds = (int64_t)(timeout_ns % NKI_NS_PER_S);
        arg.time = (uint64_t)(uintptr_t)&time;
    }
    nki_atomic_store(r->sq_tail, r->sqe_tail);
    flags |= nki_uring_poke(r);
    if (NKI_SYS_io_uring_enter(r->enter_fd, nki_uring_unsubmitted(r), timeout_ns != 0 ? 1u : 0u,
                               flags, &arg, sizeof arg) >= 0) {
        return 0;
    }
    /* ETIME: the time is up. EBUSY: completions have overflown, read them first. EAGAIN: no
     * memory for a request right now. */
    r->has_lost = r->has_lost || errno == EBADR;
    bool is_everyday = errno == ETIME || errno == EINTR || errno == EBUSY || errno == EAGAIN;
    return is_everyday ? 0 : errno;
}

/* A place for an operation, cleared; NULL when all are taken and the kernel takes none. */
static nki_uring_sqe *nki_uring_take(nki_uring *r) {
    if (NKI_UNLIKELY(r->sqe_tail - nki_atomic_load(r->sq_head) == r->sq_entries)) {
        if (!r->is_enabled || nki_uring_enter(r, 0) != 0 ||
            r->sqe_tail - nki_atomic_load(r->sq_head) == r->sq_entries) {
            return NULL;
        }
    }
    nki_uring_sqe *sqe = &r->sqes[r->sqe_tail++ & r->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

#endif /* NKI_HAS_URING */

/* ---- src/loop/types.h ---- */
/* The loop's inner types.
 *
 * Whatever owns a descriptor starts with an nki_source and lives in a slot of 120 bytes; what is
 * rarely needed hangs off it. A source has two identities: the handle names the object to the
 * user, the token names its descriptor to the kernel, so that a late event of a dead descriptor
 * fails the token's check even when number and slot are in use again. */

enum {
    NKI_RECV_SIZE = 65536,       /* one read; smaller costs factors in bulk, larger gains nothing */
    NKI_FLUSH_AT = 65535,        /* queued bytes that are not left for the end of the callback */
    NKI_DIRECT_MIN = 32768,      /* a send of so much on an empty queue skips the queue */
    NKI_CHUNK_SIZE = 16384,      /* one allocation of queue memory, its head included */
    NKI_CHUNKS_SPARE = 64,       /* free chunks a loop keeps */
    NKI_SMALL_CHUNK_SIZE = 1024, /* the same for small messages that are in flight one by one */
    NKI_MIDDLE_CHUNK_SIZE = 4352, /* and for those of 4 KiB */
    NKI_SMALL_CHUNKS_SPARE = 512, /* free ones of each of the two that a loop keeps */
    NKI_SMALL_CHUNKS_STOCK = 64,  /* made at once, at most */
    NKI_SPANS_MAX = 64,           /* spans in one gathered send */
    NKI_KEEP_COPY = 16384,        /* a span of the shared buffer up to this is kept by copying */
    NKI_DEFER_MS_MIN = 10,        /* pause of a listener that is short of resources ... */
    NKI_DEFER_MS_MAX = 1000,      /* ... doubling up to this */
    NKI_WAIT_FAILURES_MAX = 16,   /* in a row: then a run gives up instead of spinning */
    NKI_NAME_MAX = 160            /* text of "why this backend" */
};

enum {
    NKI_KIND_CONN = 1,
    NKI_KIND_LISTENER = 2,
    NKI_KIND_WATCH = 3,
    NKI_KIND_TIMER = 4,
    NKI_KIND_UDP = 5
};

/* nki_source.flags */
enum {
    NKI_S_QUEUED = 1, /* in the ready list, or the one for the next turn */
    NKI_S_UNREFERENCED = 4,
    NKI_S_GONE = 8 /* its descriptor is closed and no event of it can come */
};

typedef struct nki_source {
    uint64_t id;             /* the handle; first, as nki_slot says */
    uintptr_t socket;        /* nobody above the drivers looks inside */
    struct nki_source *next; /* in the ready list */
    uint32_t token;          /* number of the descriptor, 0 = not with the driver */
    uint16_t ready;          /* NETKIT_POLL_* the driver has seen, low bits */
    uint8_t flags;           /* NKI_S_* */
    uint8_t driver;          /* the driver's own bits */
} nki_source;

/* What conns of one listener (or one call) share. */
typedef struct nki_behaviour {
    netkit_handler handler;
    netkit_conn_options options; /* with the defaults filled in */
    uint32_t references;
    uint32_t conns;     /* alive, of this origin */
    uint64_t listener;  /* handle of the listener, or 0 */
    uint32_t read_max;  /* the most on_data is given at once while nothing is queued or carried */
    uint32_t stage_max; /* the most that is staged in a callback */
    bool is_plain;      /* has on_data, and its loop is plain */
    struct nki_behaviour *origin;  /* set_handler made this one from that one */
    struct nki_behaviour *derived; /* the last made from this one, to be shared */
} nki_behaviour;

/* A piece of the send queue: own memory behind the head, or lent: memory or part of a file. */
typedef struct nki_chunk {
    struct nki_chunk *next;
    struct nki_chunk *last; /* in the first chunk of a queue only */
    const unsigned char *data;
    size_t begin; /* first byte not yet sent */
    size_t end;
    size_t capacity; /* of own memory, 0 = lent */
    uintptr_t file;  /* own descriptor of a file that was lent, +1; 0 = memory */
    uint64_t offset; /* in the file, of byte 0 */
    netkit_release_fn release;
    void *user;
} nki_chunk;

/* By its capacity a chunk is given back to those of its size. */
NKI_STATIC_ASSERT(chunk_sizes, NKI_SMALL_CHUNK_SIZE < NKI_MIDDLE_CHUNK_SIZE - sizeof(nki_chunk) &&
                                   NKI_MIDDLE_CHUNK_SIZE < NKI_CHUNK_SIZE - sizeof(nki_chunk));

/* Chunks of one size. */
typedef struct nki_spares {
    nki_chunk *first;
    uint32_t count;
    uint32_t made; /* that there are, spare or not */
} nki_spares;

/* Received bytes that on_data left. */
typedef struct nki_carry {
    size_t begin;
    size_t end;
    size_t capacity;
} nki_carry;

/* What most conns never need. */
typedef struct nki_cold {
    nki_timer_node timer; /* one for all: set to the earliest of the times below */
    struct nki_conn *conn;
    uint64_t connect_due_ns; /* NKI_NEVER = none, as the others */
    uint64_t close_due_ns;
    uint64_t deadline_ns;
    uint64_t rate_due_ns;
    uint64_t rate_bytes; /* received in this period */
    uint32_t idle_ms;    /* 0 = none */
    uint32_t drained;    /* discarded while closing */
} nki_cold;

/* nki_conn.flags */
enum {
    NKI_C_CONNECTING = 1 << 0,
    NKI_C_OPENED = 1 << 1,   /* on_open was delivered */
    NKI_C_PAUSED = 1 << 2,   /* by the user */
    NKI_C_REOFFER = 1 << 3,  /* offer the carry again even with nothing new */
    NKI_C_EOF = 1 << 4,      /* the peer has ended */
    NKI_C_EOF_TOLD = 1 << 5, /* and the user knows */
    NKI_C_SHUT = 1 << 6,     /* end our direction when the queue is empty */
    NKI_C_FIN_SENT = 1 << 7, /* done */
    NKI_C_CLOSING = 1 << 8,  /* netkit_conn_close */
    NKI_C_DEAD = 1 << 9,     /* only releases and on_close are left */
    NKI_C_STALLED = 1 << 10, /* the system takes no more for now */
    NKI_C_DIRTY = 1 << 11,   /* in the dirty list */
    NKI_C_DRAIN_DUE = 1 << 12,
    NKI_C_DUPLEX = 1 << 13,
    NKI_C_OPEN_DUE = 1 << 14, /* on_open is to be delivered */
    NKI_C_BY_PEER = 1 << 15,  /* the close follows from the peer's end */
    NKI_C_TCP = 1 << 16,
    NKI_C_COUNTED = 1 << 18,  /* rate_min: bytes received are counted */
    NKI_C_REFUSED = 1 << 17,  /* on_drain is owed for a send of `refused` bytes */
    NKI_C_FLUSHING = 1 << 22, /* corked, but what is queued is on its way */
    NKI_C_CORKED = 1 << 21,   /* what is queued waits for more */
    NKI_C_UNTOLD = 1 << 19,   /* accepted, and nobody has heard of it before on_open */
    NKI_C_FDS = 1 << 20,      /* descriptors are received too */
    NKI_C_DUE = NKI_C_REOFFER | NKI_C_DRAIN_DUE | NKI_C_OPEN_DUE,
    NKI_C_PLAIN = NKI_C_OPENED | NKI_C_TCP | NKI_C_DUPLEX, /* nothing is out of the ordinary */
    NKI_C_ENDING = NKI_C_SHUT | NKI_C_CLOSING | NKI_C_DEAD,
    NKI_C_UNSTAGED = NKI_C_ENDING | NKI_C_CORKED,              /* sends go to the queue */
    NKI_C_HELD = NKI_C_STALLED | NKI_C_CONNECTING | NKI_C_DEAD /* nothing can be sent now */
};

/* Ready bits that make it worth while to read. */
enum {
    NKI_READABLE = NETKIT_POLL_READ | NETKIT_POLL_PRIORITY | NETKIT_POLL_ERROR |
                   NETKIT_POLL_HANGUP | NETKIT_POLL_PEER_END
};

/* What only the living need stands where the reason of the dead is kept: every byte counts here,
 * as this is what an idle connection costs. */
typedef struct nki_conn_live {
    uint32_t refused;   /* bytes that on_drain is owed for */
    uint32_t active_ms; /* when bytes last moved; wraps, see nki_conn_idle_ms */
} nki_conn_live;

typedef struct nki_conn_end {
    int32_t os_code;
    int8_t code;
    uint8_t op;
    uint8_t phase;
    uint8_t why;
} nki_conn_end;

typedef struct nki_conn {
    nki_source source;
    nki_behaviour *behaviour;
    void *user;
    void *ext;
    nki_chunk *out; /* what is to be sent */
    nki_carry *carry;
    nki_cold *cold;
    struct nki_conn *next; /* in the dirty list, later in that of the dead */
    struct nki_fds *fds;   /* descriptors that have come and nobody took */
    uint32_t flags;
    uint32_t queued;    /* copied bytes in `out` */
    uint32_t tally;     /* alive: read so far out of the turn's budget; dead: bytes unsent */
    uint16_t borrowed;  /* chunks in `out` that are borrowed */
    uint16_t unflushed; /* bytes queued since the last flush, up to NKI_FLUSH_AT */
    union {
        nki_conn_live live;
        nki_conn_end end; /* NKI_C_DEAD */
    } u;
} nki_conn;

/* Slots of listeners, conns and watches are of one size. */
enum {
    NKI_SOURCE_SIZE = 120
};

NKI_STATIC_ASSERT(conn_size, sizeof(nki_conn) <= NKI_SOURCE_SIZE);

typedef struct nki_listener {
    nki_source source;
    nki_behaviour *behaviour;
    void *user;
    int (*on_accept)(netkit_loop *, netkit_listener, const netkit_addr *, void *);
    void (*on_error)(netkit_loop *, netkit_listener, int, int, void *);
    void (*on_close)(netkit_loop *, netkit_listener, void *);
    nki_timer_node timer; /* goes on after a shortage */
    uint32_t defer_ms;
    uint32_t accepted; /* in this turn */
    uint32_t conns_max;
    uint8_t is_closing;
    uint8_t is_deferred;
    uint8_t is_full; /* at conns_max: woken by the end of a conn */
    uint8_t is_tcp;
    struct nki_listener_file *file; /* of a unix path that was bound here, to be removed */
} nki_listener;

NKI_STATIC_ASSERT(listener_size, sizeof(nki_listener) <= NKI_SOURCE_SIZE);

typedef struct nki_listener_file {
    netkit_unix_file file;
    uint64_t process; /* that bound it: a forked one must not take it away */
} nki_listener_file;

typedef struct nki_watch {
    nki_source source;
    netkit_watch_fn fn;
    void *user;
    uint32_t events; /* NETKIT_POLL_* wanted */
} nki_watch;

/* ---- datagrams ---- */

enum {
    NKI_UDP_BLOCK_ROOM = 69632 - 16, /* takes the longest datagram and its record */
    NKI_UDP_BLOCKS_SPARE = 8,
    NKI_UDP_FAILED_MAX = 16,    /* sends that failed and are not told yet */
    NKI_UDP_COST = 64,          /* of a datagram beside its bytes */
    NKI_UDP_DIRECT_MIN = 16384, /* one so large on an empty queue is not copied */
    NKI_UDP_READ_COST = 512,    /* the least that one counts in a turn's budget */
    NKI_UDP_AREA = 16 * 65600,  /* memory one call receives into */
    NKI_UDP_RETRIES = 3,        /* of a send that may have got another one's error */
    NKI_UDP_RETRIES_MAX = 100,  /* of one that has certainly */
    NKI_UDP_FAILURES_MAX = 64,  /* of receiving, in a row: then it pauses */
    NKI_UDP_SHORT_MS = 1,       /* pause when the system is short of buffers ... */
    NKI_UDP_SHORT_MS_MAX = 32,  /* ... doubling up to this */
    NKI_UDP_REPORT_SIZE = 2048  /* of a failed datagram that came back */
};

/* nki_udp.flags */
enum {
    NKI_D_PAUSED = 1 << 0,
    NKI_D_STALLED = 1 << 1, /* the system takes no more and says when it does */
    NKI_D_SHORT = 1 << 2,   /* it takes no more and does not say: a timer tries again */
    NKI_D_REFUSED = 1 << 3, /* on_drain is owed for `refused` bytes */
    NKI_D_DRAIN_DUE = 1 << 4,
    NKI_D_DIRTY = 1 << 5, /* in the dirty list */
    NKI_D_CLOSING = 1 << 6,
    NKI_D_ERRORS = 1 << 7,  /* reports may wait in the system */
    NKI_D_STARVED = 1 << 8, /* receiving failed and waits for the timer */
    NKI_D_IPV6 = 1 << 9,
    NKI_D_GSO = 1 << 10,
    NKI_D_WHOLE = 1 << 11,
    NKI_D_TELL_ERRORS = 1 << 12,
    NKI_D_DESTROYED = 1 << 13, /* closed by the end of the loop */
    NKI_D_HELD = NKI_D_STALLED | NKI_D_SHORT
};

/* A queued datagram; its bytes follow, padded to 8. */
typedef struct nki_udp_record {
    nki_route route;
    uint32_t len;
    uint32_t sent; /* segments of it, in bytes */
    uint32_t segment;
    uint8_t is_single; /* not to be cut by the system */
    uint8_t tries;
    uint16_t unused;
} nki_udp_record;

NKI_STATIC_ASSERT(record_size, sizeof(nki_udp_record) % 8 == 0);

typedef struct nki_udp_block {
    struct nki_udp_block *next;
    uint32_t begin; /* the first record not yet sent */
    uint32_t end;
} nki_udp_block;

/* Received and not delivered when its udp was paused. Items and their bytes follow. */
typedef struct nki_udp_parked {
    size_t size;
    unsigned at;
    unsigned count;
    size_t offset;
} nki_udp_parked;

typedef struct nki_udp_failed {
    nki_route route;
    uint32_t len;
    int code;
    int os_code;
} nki_udp_failed;

/* What does not fit the slot. */
typedef struct nki_udp_more {
    netkit_udp_handler handler;
    struct nki_udp *udp;
    nki_timer_node timer;
    uint64_t send_due_ns; /* NKI_NEVER = none */
    uint64_t recv_due_ns;
    uint32_t send_ms; /* the last pause, 0 = all is well */
    uint32_t recv_ms;
    uint32_t ext_size;
    uint32_t send_max;
    uint32_t failures; /* of receiving, in a row */
    uint32_t armed;    /* NETKIT_POLL_* the driver was told last */
    uint32_t caps;
    unsigned failed_count;
    size_t lost;   /* bytes of sends that failed without anybody being told */
    uint8_t level; /* of a connected one: family of the peer */
    bool is_wildcard;
    netkit_addr bound;
    nki_dgram_room room;
    nki_udp_failed failed[NKI_UDP_FAILED_MAX];
} nki_udp_more;

typedef struct nki_udp {
    nki_source source;
    nki_udp_more *more;
    void *user;
    void *ext;
    nki_udp_block *out; /* first and last: what is to be sent */
    nki_udp_block *out_last;
    nki_udp_parked *parked;
    struct nki_udp *next; /* in the dirty list */
    uint32_t flags;
    uint32_t queued;  /* bytes of the datagrams in `out`; closed: unsent */
    uint32_t records; /* how many they are */
    uint32_t refused;
    uint32_t tally; /* of the turn's budget */
} nki_udp;

NKI_STATIC_ASSERT(udp_size, sizeof(nki_udp) <= NKI_SOURCE_SIZE);

/* What a loop with udps has once: where one of them receives, and spare blocks. */
typedef struct nki_dgrams {
    void *recv_scratch; /* the system's */
    void *send_scratch;
    unsigned char *memory;
    const netkit_datagram *items; /* the batch that is being delivered */
    unsigned at;
    unsigned count;
    size_t offset;          /* in a row of segments */
    nki_udp_parked *parked; /* whose items they are, or NULL */
    nki_udp_parked *dead;   /* to be freed when the callback has returned */
    nki_udp_parked *in_use; /* what the last batch began with, NULL = not parked ones */
    nki_udp_block *spare;
    uint32_t spare_count;
    uint32_t blocks;     /* that exist */
    netkit_datagram one; /* a segment, or a report */
    netkit_datagram in[NKI_DGRAM_BATCH];
    unsigned char report[NKI_UDP_REPORT_SIZE];
} nki_dgrams;

/* A user's timer: its slot, which is all that starting again and stopping look at. With a
 * million of them the cache misses are the price, so it is half a cache line. */
typedef struct nki_timer {
    uint64_t id;         /* the handle */
    nki_timer_node node; /* its mark: the timer does not keep the loop running */
} nki_timer;

/* What firing it needs: beside the slot. */
typedef struct nki_timer_call {
    netkit_timer_fn fn;
    void *user;
    uint64_t period_ns;
} nki_timer_call;

/* A block of received bytes, refcounted by being in one place: the loop's, or a user's who has
 * kept it. It goes back through the keeper, which outlives the loop. */
typedef struct nki_block {
    struct nki_block *next;
    struct nki_keeper *keeper;
    size_t capacity;
} nki_block;

typedef struct nki_keeper {
    netkit_allocator allocator;
    void *returned;      /* stack of blocks given back, pushed from any thread */
    uint32_t references; /* kept blocks, and one of the loop */
    uint32_t is_orphan;  /* the loop is gone */
} nki_keeper;

/* Where a turn is. It can stop between any two callbacks and go on later. */
typedef enum nki_turn_phase {
    NKI_TURN_NONE = 0,
    NKI_TURN_READY,
    NKI_TURN_POSTS,
    NKI_TURN_TIMERS,
    NKI_TURN_CLOSES
} nki_turn_phase;

typedef struct nki_queue {
    nki_source *first;
    nki_source *last;
} nki_queue;

typedef struct nki_conn_queue {
    nki_conn *first;
    nki_conn *last;
} nki_conn_queue;

struct netkit_loop {
    const struct nki_driver *driver;
    nki_slots sources;
    uintptr_t owner;   /* thread id, 0 = nobody yet */
    nki_conn *current; /* its callback is running: it is flushed when that returns */
    nki_conn *ignored; /* debug: a send of it was refused in this callback */
    uint64_t turn_ns;  /* clock at the end of the wait */
    uint32_t turn_ms;  /* the same in milliseconds, wrapping */
    uint8_t in_callback;
    uint8_t is_arming;  /* the driver wants to hear of wishes */
    uint8_t is_plain;   /* no debug mode, no driver that wants wishes or its buffers back */
    uint8_t is_running; /* inside run, run_once or poll */
    uint8_t is_run;     /* inside netkit_loop_run: it must not wait with nothing left to wait for */
    uint8_t is_flushing;    /* the user wants what is queued to be sent now */
    uint8_t is_unsubmitted; /* what only a turn, or commit, submits, or only a turn takes up */
    uint8_t phase;          /* nki_turn_phase */
    nki_queue ready;        /* to be served in this turn */
    nki_queue later;        /* in the next one */
    nki_conn_queue dirty;
    nki_conn_queue dead;
    nki_udp *udp_dirty; /* udps to be flushed */
    nki_udp *udp_dirty_last;
    nki_udp *udp_batch;      /* what it has received is being delivered */
    nki_dgrams *dgrams;      /* from the first udp on */
    nki_queue graves;        /* slots to be freed at the end of the turn */
    nki_chunk *releases;     /* lent chunks the system has taken, in order; first->last */
    unsigned char *reserved; /* given out by netkit_conn_reserve, for this conn: */
    uint64_t reserved_id;
    unsigned char *stage; /* what the current conn queues on an empty queue: NKI_FLUSH_AT bytes */
    size_t stage_len;
    size_t stage_room; /* more bytes it takes of the conn of stage_id; 0 = closed */
    uint64_t stage_id; /* the conn whose sends are staged */
    nki_chunk *chunks; /* spare chunks */
    uint32_t chunks_count;
    nki_spares small_chunks; /* the same, for drivers that send later */
    nki_spares middle_chunks;
    uint32_t token;   /* last token given out */
    nki_block *recv;  /* the shared receive buffer */
    netkit_span span; /* what on_data was called with */
    uint8_t span_is_carry;
    uint8_t is_inherited; /* being destroyed by a forked process: what is shared is not touched */
    netkit_event pulled;  /* pull: the event that is out */
    void *pulled_object;  /* whose it is */
    size_t pulled_used;   /* DATA: as netkit_loop_consume said */
    uint64_t calls;       /* callbacks made */
    uint8_t is_pulled_fresh; /* it has not been fetched yet */
    uint64_t pull_until_ns;  /* the puller's time is up; not before one event has been given */
    uint64_t pull_calls;     /* `calls` when its time began */
    nki_keeper *keeper;
    uint64_t kept_bytes;
    nki_timers timers;
    nki_slots timer_slots;
    uint64_t timer_order;  /* timers started later than this wait for the next turn */
    uint32_t timers_fired; /* in this turn */
    uint32_t posts_run;
    nki_posts posts;
    uint32_t wake_pending;  /* atomic: a wake is under way */
    uint32_t stop;          /* atomic */
    uint32_t is_destroying; /* atomic: posts are refused */
    uint32_t references;
    uint32_t wait_failures; /* in a row */
    int wait_error;         /* the last of them */
    uint32_t buried;        /* slots that wait for the end of the turn */
    uint64_t turns;
    uint64_t process;  /* that made it */
    nki_poller poller; /* the readiness driver's */
    nki_wake wake;
    netkit_poll_event *events;
    const netkit_poll_event *events_next; /* seen by wait, not yet served */
    const netkit_poll_event *events_end;
    void *driver_state;
    const char *backend; /* its name */
    void *ext;
    netkit_loop_desc desc; /* with the defaults filled in */
    netkit_allocator allocator;
    char why[NKI_NAME_MAX];
};

/* ---- src/loop/driver.h ---- */
/* Drivers: how bytes move. Above this table nothing knows, and nothing touches the world.
 *
 * The driver tells which sources are ready; the loop then asks for what there is piece by piece,
 * as far as budgets, pauses and full queues let it. So a driver on completions parks what has come
 * and gives it out in order, a driver on readiness asks the system at that moment. */

typedef struct nki_listen_how {
    const netkit_addr *addr;
    int backlog;
    int flags;                          /* NETKIT_SOCKET_* */
    uint32_t mode;                      /* of a unix path's file, 0 = as umask leaves it */
    const netkit_conn_options *options; /* of the conns to be: buffers */
} nki_listen_how;

typedef struct nki_udp_how {
    const netkit_addr *addr; /* to bind to, or NULL */
    const netkit_addr *peer; /* to connect to, or NULL */
    uintptr_t adopted;       /* instead, or UINTPTR_MAX */
    int flags;               /* NETKIT_SOCKET_* */
    bool is_shared;
    uint32_t recv_buffer; /* 0 = the system's */
    uint32_t send_buffer;
} nki_udp_how;

typedef struct nki_driver {
    /* The driver itself. open takes or refuses desc.backend. */
    int (*open)(netkit_loop *loop);
    void (*close)(netkit_loop *loop);
    uint64_t (*now)(netkit_loop *loop);
    int (*random)(netkit_loop *loop, void *out, size_t size);
    /* Wait for events; next gives one source after the other, its ready bits set, or NULL at the
     * end. Between them the loop serves what it was given, so an event of a source that has died
     * meanwhile is dropped. wait returns how many events there are, or an error. */
    int (*wait)(netkit_loop *loop, uint64_t timeout_ns);
    nki_source *(*next)(netkit_loop *loop);
    /* From any thread and signal handlers. Coalesced: no other comes before its turn has begun. */
    int (*wake)(netkit_loop *loop, bool is_coalesced);
    int (*native)(netkit_loop *loop, uintptr_t *out);
    /* What was begun goes to the system now: nobody is going to wait soon. NULL = it went. */
    void (*commit)(netkit_loop *loop);
    /* Another thread, the caller, takes the loop over. NULL = that changes nothing. */
    int (*rebind)(netkit_loop *loop);

    /* Descriptors. shut stops events, closes (with a reset or not) and calls nki_gone() when no
     * completion can come any more: at once, or later. discard closes one never attached. */
    int (*attach)(netkit_loop *loop, nki_source *source);
    void (*shut)(netkit_loop *loop, nki_source *source, bool reset);
    void (*discard)(netkit_loop *loop, uintptr_t socket, bool reset);
    /* The loop's wishes have changed: NETKIT_POLL_READ, _WRITE. NULL = not interested. */
    void (*arm)(netkit_loop *loop, nki_source *source, uint32_t wanted);
    int (*watch)(netkit_loop *loop, nki_source *source, uint32_t events, bool is_new);
    void (*unwatch)(netkit_loop *loop, nki_source *source);

    /* Streams. */
    int (*listen)(netkit_loop *loop, const nki_listen_how *how, uintptr_t *out,
                  netkit_unix_file *file); /* made with it, or none */
    int (*accept)(netkit_loop *loop, nki_listener *l, uintptr_t *out, netkit_addr *peer);
    /* Whether a socket is a connected stream, made non-blocking; and of TCP. */
    int (*adopt)(netkit_loop *loop, uintptr_t socket, bool *is_tcp);
    int (*connect)(netkit_loop *loop, nki_conn *c, const netkit_addr *to,
                   const netkit_addr *source);        /* NETKIT_E_AGAIN: under way */
    int (*connected)(netkit_loop *loop, nki_conn *c); /* how it ended */
    /* Up to `max` bytes: count and loop->span.data, valid until read_done; NETKIT_E_AGAIN (then
     * READ is no longer ready), NETKIT_E_EOF, or an error. */
    int (*read)(netkit_loop *loop, nki_conn *c, size_t max);
    void (*read_done)(netkit_loop *loop, nki_conn *c); /* NULL = not interested */
    /* The span that is out is to be kept: its block, if it has one of at most `room` bytes for
     * itself, goes to the user for good; or *block stays NULL, and it is copied. */
    int (*keep)(netkit_loop *loop, uint64_t room, nki_block **block);
    /* Move the queue by nki_out_sent(); NETKIT_OK: as far as it went; or an error. */
    int (*flush)(netkit_loop *loop, nki_conn *c);
    /* Bytes straight from memory that is only lent for the call: count (0: this driver does not
     * do that now), NETKIT_E_AGAIN: the system takes none, or an error. */
    int (*send)(netkit_loop *loop, nki_conn *c, const void *data, size_t len);
    int (*half_close)(netkit_loop *loop, nki_conn *c);
    /* Files to be sent: an own descriptor for `len` bytes (NETKIT_FILE_END: all there are) from
     * `offset`, and its end. */
    int (*file_open)(uintptr_t file, uint64_t offset, uint64_t *len, uintptr_t *out);
    void (*file_close)(uintptr_t file);

    /* Datagrams: the pair, and what it needs. open tells NETKIT_UDP_CAP_*. recv fills
     * loop->dgrams->in: a count of at most u->more->room.count, NETKIT_E_AGAIN, or an error (READ
     * is no longer ready when all has been taken); send takes a count of the messages, or gives
     * NETKIT_E_AGAIN: then `arm` with WRITE and ready say when to go on; NETKIT_E_NOMEM: nobody
     * will say. failed gives the next report of one that did not arrive, or NETKIT_E_AGAIN. */
    int (*udp_open)(netkit_loop *loop, const nki_udp_how *how, uintptr_t *out, uint32_t *caps);
    int (*udp_recv)(netkit_loop *loop, nki_udp *u);
    int (*udp_send)(netkit_loop *loop, nki_udp *u, const nki_dgram_out *out, unsigned count);
    int (*udp_failed)(netkit_loop *loop, nki_udp *u, netkit_datagram *out);
    int (*udp_join)(netkit_loop *loop, uintptr_t socket, bool is_join, const netkit_addr *group,
                    uint32_t interface_index, const netkit_addr *source);

    int (*local)(netkit_loop *loop, uintptr_t socket, netkit_addr *out);
    int (*remote)(netkit_loop *loop, uintptr_t socket, netkit_addr *out);
    int (*set_option)(netkit_loop *loop, uintptr_t socket, netkit_option option, int value);
    int (*get_option)(netkit_loop *loop, uintptr_t socket, netkit_option option, int *value);
    int (*os_code)(void); /* behind the error just returned */

    /* Unix sockets. read_fds is read with room for NETKIT_FDS_MAX descriptors; NETKIT_E_TRUNCATED:
     * some that came were lost. Queued ones go out with the chunk that nki_fds_of() knows. */
    int (*read_fds)(netkit_loop *loop, nki_conn *c, size_t max, uintptr_t *fds, size_t *count);
    int (*dup)(netkit_loop *loop, uintptr_t native, uintptr_t *out);
    int (*credentials)(netkit_loop *loop, uintptr_t socket, netkit_credentials *out);
    int (*unlink)(netkit_loop *loop, const netkit_unix_file *file);
    uint64_t (*process)(netkit_loop *loop); /* the number of this one */

    int (*set_text)(netkit_loop *loop, uintptr_t socket, netkit_option option, const char *value);
    int (*get_text)(netkit_loop *loop, uintptr_t socket, netkit_option option, char *text,
                    size_t size);

    /* How a stream fares whose peer has ended: NETKIT_OK, NETKIT_E_NOTCONN: it is no more, or the
     * error that came behind the end. */
    int (*failed)(netkit_loop *loop, nki_conn *c);
} nki_driver;

/* ---- src/loop/objects.c ---- */
/* Objects: handles, tokens, the ready list, and what keeps a loop running.
 *
 * A source is in at most one list at a time, so one link serves: `ready` for this turn, `later`
 * for the next, `graves` at its end. */

static uint32_t nki_or(uint32_t value, uint32_t fallback) {
    return value == 0 ? fallback : value;
}

/* Places for an answer are safe to read when there is none. */
static NKI_OUTLINE void nki_no_answer(void *out, size_t size) {
    if (out != NULL) {
        memset(out, 0, size);
    }
}

static void nki_no_native(uintptr_t *out) {
    if (out != NULL) {
        *out = UINTPTR_MAX;
    }
}

static netkit_conn nki_conn_handle(const nki_conn *c) {
    netkit_conn handle;
    handle.id = c->source.id;
    return handle;
}

static netkit_listener nki_listener_handle(const nki_listener *l) {
    netkit_listener handle;
    handle.id = l->source.id;
    return handle;
}

/* Gate of every call but those for any thread. */
static NKI_COLD int nki_wrong_thread(netkit_loop *loop);

static NKI_HOT int nki_enter_now(netkit_loop *loop) {
    if (NKI_UNLIKELY(loop == NULL)) {
        return NETKIT_E_INVALID;
    }
    uintptr_t owner = nki_atomic_load_relaxed(&loop->owner); /* who is wrong here may come early */
    if (NKI_UNLIKELY(owner != nki_os_thread_id() && owner != 0)) {
        return nki_wrong_thread(loop);
    }
    return NETKIT_OK;
}

static NKI_OUTLINE int nki_enter(netkit_loop *loop) {
    return nki_enter_now(loop);
}

static NKI_OUTLINE void nki_log(netkit_loop *loop, int level, int id, const char *text,
                                int os_code) {
    if (loop->desc.logger.log != NULL) {
        int before = nki_os_code();
        loop->desc.logger.log(level, id, text, os_code, loop->desc.logger.user);
        (void)nki_os_fail(before);
    }
}

static NKI_COLD int nki_wrong_thread(netkit_loop *loop) {
    if (loop->desc.debug) {
        nki_log(loop, NETKIT_LOG_ERROR, NETKIT_LOGID_WRONG_THREAD,
                "called on a thread that does not own the loop: only netkit_loop_post and "
                "netkit_loop_stop may be; post the call, or netkit_loop_adopt an idle loop",
                0);
    }
    return NETKIT_E_THREAD;
}

static NKI_OUTLINE void nki_refresh_time(netkit_loop *loop) {
    loop->turn_ns = loop->driver->now(loop);
    loop->turn_ms = (uint32_t)(loop->turn_ns / NKI_NS_PER_MS);
}

/* Whether a span of received bytes of this conn is with the user right now. */
static bool nki_is_in_data(const netkit_loop *loop, const nki_conn *c) {
    return loop->current == c && loop->span.data != NULL;
}

/* Before the loop is left: the system must know of everything that was begun. */
static void nki_commit(netkit_loop *loop) {
    if (loop->driver->commit != NULL) {
        loop->driver->commit(loop);
    }
}

/* ---- lists ---- */

static NKI_OUTLINE void nki_queue_push(nki_queue *q, nki_source *source) {
    source->next = NULL;
    if (q->last == NULL) {
        q->first = source;
    } else {
        q->last->next = source;
    }
    q->last = source;
}

static nki_source *nki_queue_pop(nki_queue *q) {
    nki_source *source = q->first;
    if (source != NULL) {
        q->first = source->next;
        if (q->first == NULL) {
            q->last = NULL;
        }
    }
    return source;
}

static void nki_queue_splice(nki_queue *to, nki_queue *from) {
    if (from->first == NULL) {
        return;
    }
    if (to->last == NULL) {
        to->first = from->first;
    } else {
        to->last->next = from->first;
    }
    to->last = from->last;
    from->first = NULL;
    from->last = NULL;
}

static void nki_conn_queue_push(nki_conn_queue *q, nki_conn *c) {
    c->next = NULL;
    if (q->last == NULL) {
        q->first = c;
    } else {
        q->last->next = c;
    }
    q->last = c;
}

static nki_conn *nki_conn_queue_pop(nki_conn_queue *q) {
    nki_conn *c = q->first;
    if (c != NULL) {
        q->first = c->next;
        if (q->first == NULL) {
            q->last = NULL;
        }
    }
    return c;
}

/* ---- the ready list ---- */

/* Serve a source in this turn (or the next, between turns). */
static NKI_OUTLINE void nki_enqueue(netkit_loop *loop, nki_source *source) {
    if ((source->flags & NKI_S_QUEUED) == 0) {
        source->flags |= NKI_S_QUEUED;
        nki_queue_push(&loop->ready, source);
    }
}

/* Its budget of this turn is used up: serve it in the next. */
static NKI_OUTLINE void nki_enqueue_later(netkit_loop *loop, nki_source *source) {
    if ((source->flags & NKI_S_QUEUED) == 0) {
        source->flags |= NKI_S_QUEUED;
        nki_queue_push(&loop->later, source);
    }
}

/* For drivers: these NETKIT_POLL_* were seen on the source. */
static void nki_ready(netkit_loop *loop, nki_source *source, uint32_t events) {
    source->ready = (uint16_t)(source->ready | (events & 0xFFFFu));
    nki_enqueue(loop, source);
}

/* ---- tokens ---- */

static uint64_t nki_token_of(const nki_source *source) {
    return (uint64_t)source->token << 32 | nki_id_slot(source->id);
}

/* For drivers: name a descriptor that is to be registered. Its token has the slot in the low bits
 * and a number nobody had before; 0 is no number, so without a descriptor nothing is found. */
static uint64_t nki_token_new(netkit_loop *loop, nki_source *source) {
    loop->token += loop->token == UINT32_MAX ? 2 : 1;
    source->token = loop->token;
    return nki_token_of(source);
}

/* For drivers: what a token names, or NULL for the dead. */
static NKI_HOT nki_source *nki_token_find(netkit_loop *loop, uint64_t token) {
    uint32_t slot = nki_id_slot(token);
    if (NKI_UNLIKELY(slot >= loop->sources.capacity)) {
        return NULL;
    }
    nki_source *source = (nki_source *)(void *)nki_slots_at(&loop->sources, slot);
    return source->token == (uint32_t)(token >> 32) ? source : NULL;
}

/* ---- references ---- */

static void nki_reference(netkit_loop *loop, nki_source *source) {
    NKI_UNUSED(source);
    loop->references++;
}

static void nki_unreference(netkit_loop *loop, nki_source *source) {
    if ((source->flags & NKI_S_UNREFERENCED) == 0) {
        source->flags |= NKI_S_UNREFERENCED;
        loop->references--;
    }
}

static int nki_set_referenced(netkit_loop *loop, nki_source *source, bool referenced) {
    bool is_now = (source->flags & NKI_S_UNREFERENCED) == 0;
    if (referenced && !is_now) {
        source->flags = (uint8_t)(source->flags & ~NKI_S_UNREFERENCED);
        loop->references++;
    } else if (!referenced) {
        nki_unreference(loop, source);
    }
    return NETKIT_OK;
}

/* ---- life ---- */

/* Make a source of a kind with a socket; nothing is delivered for it yet. */
static NKI_OUTLINE int nki_source_take(netkit_loop *loop, uint32_t kind, uintptr_t socket,
                                       void **out) {
    if (loop->is_destroying) {
        *out = NULL;
        return NETKIT_E_CLOSED;
    }
    int error = nki_slots_take(&loop->sources, kind, out);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_source *source = (nki_source *)*out;
    source->socket = socket;
    nki_reference(loop, source);
    return NETKIT_OK;
}

/* The slot is freed when the turn ends: a list of this turn may still lead to it. */
static NKI_OUTLINE void nki_bury(netkit_loop *loop, nki_source *source) {
    nki_unreference(loop, source);
    loop->buried++;
    source->ready = 0;
    source->token = 0;
    if ((source->flags & NKI_S_QUEUED) == 0) {
        source->flags |= NKI_S_QUEUED;
        nki_queue_push(&loop->graves, source);
    }
    source->flags |= NKI_S_GONE;
    source->id &= ~((uint64_t)0xFF << NKI_SLOT_BITS); /* the handle is stale from here on */
}

static void nki_free_graves(netkit_loop *loop) {
    nki_source *source;
    while ((source = nki_queue_pop(&loop->graves)) != NULL) {
        loop->buried--;
        nki_slots_give(&loop->sources, source);
    }
}

/* Undo nki_source_take before anybody heard of it: no list and no event leads to the slot. */
static void nki_source_undo(netkit_loop *loop, nki_source *source) {
    nki_unreference(loop, source);
    nki_slots_give(&loop->sources, source);
}

/* ---- calling the user ---- */

/* Around every callback: no run may start inside, and debug mode looks at the time. */
static NKI_OUTLINE uint64_t nki_call_begin(netkit_loop *loop) {
    loop->in_callback++;
    loop->calls++;
    return NKI_UNLIKELY(loop->desc.debug) ? nki_os_now_ns() : 0;
}

static NKI_COLD void nki_slow_callback(netkit_loop *loop, uint64_t ns) {
    char text[128];
    snprintf(text, sizeof text,
             "a callback ran for %lu ms and everything else waited: move slow work to a thread "
             "and post the result",
             (unsigned long)(ns / NKI_NS_PER_MS));
    nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_SLOW_CALLBACK, text, 0);
}

static NKI_OUTLINE void nki_call_end(netkit_loop *loop, uint64_t started_ns) {
    loop->in_callback--;
    if (NKI_UNLIKELY(loop->desc.debug)) {
        uint64_t ns = nki_os_now_ns() - started_ns;
        if (ns > (uint64_t)loop->desc.slow_callback_ms * NKI_NS_PER_MS) {
            nki_slow_callback(loop, ns);
        }
    }
}

/* Pull: hand this event out. Returns the place to fill; the turn stops here until the next
 * call of netkit_loop_next. */
static NKI_OUTLINE netkit_event *nki_pull(netkit_loop *loop, netkit_event_type type, void *object,
                                          void *user) {
    memset(&loop->pulled, 0, sizeof loop->pulled);
    loop->pulled_object = object;
    loop->pulled.type = type;
    loop->calls++;
    loop->pulled.user = user;
    return &loop->pulled;
}

/* ---- src/loop/queue.c ---- */
/* The send queue of a conn: chunks of copied bytes, of borrowed memory and of files, in order.
 *
 * What a conn queues in its own callback is staged in one buffer of the loop and goes out from
 * there when the callback returns; only what the system does not take, and what others queue, is
 * put into chunks. Chunks never move, and a chunk's progress is an offset, so a driver may have
 * the system read from them while more is appended. Copied bytes are bounded by send_max, borrowed
 * chunks by chunks_max. Empty queues own nothing: a chunk goes back to the loop, which keeps
 * some. */

/* Descriptors to be sent, and the bytes they go with: lent memory of our own, so it is released as
 * such, once it was sent or the conn has died. */
typedef struct nki_batch {
    size_t count;
    size_t len;
    size_t size; /* of this block */
    uintptr_t fds[1];
} nki_batch;

static void nki_batch_done(netkit_loop *loop, int status, void *user);

/* A chunk out of the reserve. */
static nki_chunk *nki_chunk_take(netkit_loop *loop) {
    nki_chunk *chunk = loop->chunks;
    loop->chunks = chunk->next;
    loop->chunks_count--;
    chunk->next = NULL;
    chunk->last = chunk;
    chunk->data = (const unsigned char *)(chunk + 1);
    chunk->begin = 0;
    chunk->end = 0;
    chunk->capacity = NKI_CHUNK_SIZE - sizeof *chunk;
    chunk->file = 0;
    chunk->release = NULL;
    return chunk;
}

static void nki_spares_give(netkit_loop *loop, nki_spares *spares, nki_chunk *chunk) {
    if (spares->count < NKI_SMALL_CHUNKS_SPARE) {
        chunk->next = spares->first;
        spares->first = chunk;
        spares->count++;
    } else {
        nki_free(&loop->allocator, chunk, sizeof *chunk + chunk->capacity);
        spares->made--;
    }
}

static void nki_spares_free(netkit_loop *loop, nki_spares *spares) {
    while (spares->first != NULL) {
        nki_chunk *chunk = spares->first;
        spares->first = chunk->next;
        nki_free(&loop->allocator, chunk, sizeof *chunk + chunk->capacity);
    }
    spares->count = 0;
}

static void nki_chunk_give(netkit_loop *loop, nki_chunk *chunk) {
    if (chunk->capacity == 0) {
        nki_free(&loop->allocator, chunk, sizeof *chunk);
    } else if (chunk->capacity < NKI_SMALL_CHUNK_SIZE) {
        nki_spares_give(loop, &loop->small_chunks, chunk);
    } else if (chunk->capacity < NKI_MIDDLE_CHUNK_SIZE) {
        nki_spares_give(loop, &loop->middle_chunks, chunk);
    } else if (loop->chunks_count < NKI_CHUNKS_SPARE) {
        chunk->next = loop->chunks;
        loop->chunks = chunk;
        loop->chunks_count++;
    } else {
        nki_free(&loop->allocator, chunk, NKI_CHUNK_SIZE);
    }
}

static void nki_chunks_free(netkit_loop *loop) {
    while (loop->chunks != NULL) {
        nki_chunk *chunk = loop->chunks;
        loop->chunks = chunk->next;
        nki_free(&loop->allocator, chunk, NKI_CHUNK_SIZE);
    }
    loop->chunks_count = 0;
    nki_spares_free(loop, &loop->small_chunks);
    nki_spares_free(loop, &loop->middle_chunks);
}

static void nki_out_append(nki_conn *c, nki_chunk *chunk) {
    if (c->out == NULL) {
        c->out = chunk;
        c->flags &= ~(uint32_t)NKI_C_FLUSHING;
    } else {
        c->out->last->next = chunk;
        c->out->last = chunk;
    }
}

/* Count bytes for the flush that comes at 64 KiB; borrowed ones may be many. */
static void nki_out_count(nki_conn *c, size_t len) {
    size_t sum = (size_t)c->unflushed + len;
    c->unflushed = (uint16_t)NKI_MIN(sum, (size_t)NKI_FLUSH_AT);
}

/* The last chunk, if bytes can be copied to its end. */
static nki_chunk *nki_out_open(const nki_conn *c) {
    if (c->out == NULL) {
        return NULL;
    }
    nki_chunk *last = c->out->last;
    return last->end < last->capacity ? last : NULL; /* a borrowed one has no capacity */
}

/* Have so many chunks in reserve. */
static int nki_chunk_stock(netkit_loop *loop, size_t wanted) {
    while (loop->chunks_count < wanted) {
        nki_chunk *chunk = (nki_chunk *)nki_alloc(&loop->allocator, NKI_CHUNK_SIZE);
        if (chunk == NULL) {
            return NETKIT_E_NOMEM;
        }
        chunk->next = loop->chunks;
        loop->chunks = chunk;
        loop->chunks_count++;
    }
    return NETKIT_OK;
}

/* Have chunks enough at hand to append `len` bytes, so that appending cannot fail half way. */
static int nki_out_reserve(netkit_loop *loop, const nki_conn *c, size_t len) {
    const size_t each = NKI_CHUNK_SIZE - sizeof(nki_chunk);
    const nki_chunk *last = nki_out_open(c);
    size_t room = last == NULL ? 0 : last->capacity - last->end;
    size_t wanted = len <= room ? 0 : (len - room + each - 1) / each;
    return nki_chunk_stock(loop, wanted);
}

/* Copy bytes into chunks at the end: all, or on NETKIT_E_NOMEM nothing. */
static NKI_OUTLINE int nki_out_chunks(netkit_loop *loop, nki_conn *c, const void *data,
                                      size_t len) {
    const unsigned char *from = (const unsigned char *)data;
    loop->reserved = NULL;
    if (nki_out_reserve(loop, c, len) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    c->queued += (uint32_t)len;
    nki_out_count(c, len);
    while (len > 0) {
        nki_chunk *chunk = nki_out_open(c);
        if (chunk == NULL) {
            chunk = nki_chunk_take(loop);
            nki_out_append(c, chunk);
        }
        size_t n = NKI_MIN(len, chunk->capacity - chunk->end);
        memcpy((unsigned char *)(chunk + 1) + chunk->end, from, n);
        chunk->end += n;
        from += n;
        len -= n;
    }
    return NETKIT_OK;
}

/* ---- the stage ---- */

/* A callback of a conn begins: while nothing waits before them its sends are staged. */
static NKI_HOT void nki_stage_open(netkit_loop *loop, nki_conn *c) {
    loop->current = c;
    loop->span.data = NULL;
    if (NKI_LIKELY(c->out == NULL && (c->flags & NKI_C_UNSTAGED) == 0)) {
        loop->stage_id = c->source.id;
        loop->stage_room = c->behaviour->stage_max;
    }
}

/* No more is staged for this conn; what is staged stays. */
static void nki_stage_close(netkit_loop *loop, const nki_conn *c) {
    if (loop->current == c) {
        loop->stage_room = 0;
    }
}

/* Everything staged has gone: there is room again, unless the stage was closed. */
static void nki_stage_reopen(netkit_loop *loop, nki_conn *c) {
    if (loop->stage_len == 0 && c->out == NULL && (c->flags & NKI_C_UNSTAGED) == 0) {
        loop->stage_room = c->behaviour->stage_max;
    }
}

static size_t nki_staged(const netkit_loop *loop, const nki_conn *c) {
    return loop->current == c ? loop->stage_len : 0;
}

/* Move what is staged into chunks: it has to wait, or something must stand behind it. */
static NKI_OUTLINE int nki_stage_spill(netkit_loop *loop, nki_conn *c) {
    size_t len = nki_staged(loop, c);
    nki_stage_close(loop, c);
    if (len == 0) {
        return NETKIT_OK;
    }
    int error = nki_out_chunks(loop, c, loop->stage, len);
    if (error == NETKIT_OK) {
        loop->stage_len = 0;
    }
    return error;
}

static NKI_HOT void nki_stage_copy(netkit_loop *loop, const void *data, size_t len) {
    unsigned char *at = loop->stage + loop->stage_len;
    loop->stage_len += len;
    loop->stage_room -= len;
    memcpy(at, data, len);
}

/* Queue a copy of bytes. On NETKIT_E_NOMEM the caller dooms the conn. */
static int nki_out_copy(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    if (loop->stage_id == c->source.id && len <= loop->stage_room) {
        nki_stage_copy(loop, data, len);
        return NETKIT_OK;
    }
    int error = nki_stage_spill(loop, c);
    return error != NETKIT_OK ? error : nki_out_chunks(loop, c, data, len);
}

/* Copied bytes that the queue still takes. */
static size_t nki_out_room(const netkit_loop *loop, const nki_conn *c) {
    return c->behaviour->options.send_max - c->queued - nki_staged(loop, c);
}

/* A chunk for what is lent; not in the queue yet. */
static nki_chunk *nki_chunk_lent(netkit_loop *loop, size_t len, netkit_release_fn release,
                                 void *user) {
    nki_chunk *chunk = (nki_chunk *)nki_alloc_zero(&loop->allocator, sizeof *chunk);
    if (chunk != NULL) {
        chunk->last = chunk;
        chunk->end = len;
        chunk->release = release;
        chunk->user = user;
    }
    return chunk;
}

static void nki_out_lend_chunk(nki_conn *c, nki_chunk *chunk) {
    nki_out_append(c, chunk);
    c->borrowed++;
    nki_out_count(c, chunk->end);
}

static int nki_out_lend(netkit_loop *loop, nki_conn *c, const void *data, size_t len,
                        netkit_release_fn release, void *user) {
    nki_chunk *chunk = nki_chunk_lent(loop, len, release, user);
    if (chunk == NULL) {
        return NETKIT_E_NOMEM;
    }
    chunk->data = (const unsigned char *)data;
    nki_out_lend_chunk(c, chunk);
    return NETKIT_OK;
}

/* Bytes waiting, borrowed ones too. */
static NKI_OUTLINE size_t nki_out_bytes(const netkit_loop *loop, const nki_conn *c) {
    size_t sum = nki_staged(loop, c);
    for (const nki_chunk *chunk = c->out; chunk != NULL; chunk = chunk->next) {
        sum += chunk->end - chunk->begin;
    }
    return sum;
}

/* For drivers: the descriptors that must go with the first byte of this chunk, or NULL. */
static nki_batch *nki_fds_of(const nki_chunk *chunk) {
    bool has = chunk->release == nki_batch_done && chunk->begin == 0;
    return has ? (nki_batch *)chunk->user : NULL;
}

/* For drivers: what goes by a call of its own, a file or bytes that have descriptors with them. */
static bool nki_out_is_alone(const nki_chunk *chunk) {
    return chunk->file != 0 || nki_fds_of(chunk) != NULL;
}

/* For drivers: the first spans of what waits, up to a file, or lent memory of lent_min bytes;
 * returns their number. Bytes that have descriptors with them are not among them, as those go with
 * the first byte of a send. */
static size_t nki_out_spans(const nki_conn *c, netkit_span *spans, size_t count_max,
                            size_t lent_min) {
    size_t count = 0;
    for (const nki_chunk *chunk = c->out; chunk != NULL && count < count_max; chunk = chunk->next) {
        bool is_large = chunk->capacity == 0 && chunk->end - chunk->begin >= lent_min;
        if (NKI_UNLIKELY(is_large || nki_out_is_alone(chunk))) {
            break;
        }
        if (chunk->end > chunk->begin) {
            spans[count].data = chunk->data + chunk->begin;
            spans[count].len = chunk->end - chunk->begin;
            count++;
        }
    }
    return count;
}

/* For drivers: whether a file stands right behind the first `count` spans. */
static bool nki_out_file_follows(const nki_conn *c, size_t count) {
    const nki_chunk *chunk = c->out;
    for (; chunk != NULL && chunk->file == 0 && count > 0; chunk = chunk->next) {
        count -= chunk->end > chunk->begin;
    }
    return chunk != NULL && chunk->file != 0 && chunk->end > chunk->begin;
}

/* Take the first chunk off. */
static nki_chunk *nki_out_pop(nki_conn *c) {
    nki_chunk *chunk = c->out;
    c->out = chunk->next;
    if (c->out != NULL) {
        c->out->last = chunk->last;
    }
    return chunk;
}

/* The descriptor of a file is not needed any more. */
static void nki_chunk_close_file(netkit_loop *loop, nki_chunk *chunk) {
    if (chunk->file != 0) {
        loop->driver->file_close(chunk->file - 1);
        chunk->file = 0;
    }
}

static void nki_release_later(netkit_loop *loop, nki_chunk *chunk) {
    nki_chunk_close_file(loop, chunk);
    chunk->next = NULL;
    chunk->last = chunk;
    if (loop->releases == NULL) {
        loop->releases = chunk;
    } else {
        loop->releases->last->next = chunk;
        loop->releases->last = chunk;
    }
}

/* Tell the owner of what was lent, and forget it. */
static NKI_OUTLINE void nki_release(netkit_loop *loop, nki_chunk *chunk, int status) {
    nki_chunk_close_file(loop, chunk);
    if (chunk->release != NULL) {
        uint64_t started = nki_call_begin(loop);
        chunk->release(loop, status, chunk->user);
        nki_call_end(loop, started);
    }
    nki_free(&loop->allocator, chunk, sizeof *chunk);
}

/* Run one release that is due. Returns false when there was none. */
static bool nki_release_next(netkit_loop *loop) {
    nki_chunk *chunk = loop->releases;
    if (chunk == NULL) {
        return false;
    }
    loop->releases = chunk->next;
    if (loop->releases != NULL) {
        loop->releases->last = chunk->last;
    }
    nki_release(loop, chunk, NETKIT_OK);
    return true;
}

/* For drivers: so many bytes were taken by the system. A lent chunk that is done moves to the
 * loop's list of releases: they are called back by the turn alone. */
static void nki_out_sent(netkit_loop *loop, nki_conn *c, size_t len) {
    c->u.live.active_ms = loop->turn_ms;
    while (c->out != NULL) {
        nki_chunk *chunk = c->out;
        size_t n = NKI_MIN(len, chunk->end - chunk->begin);
        chunk->begin += n;
        len -= n;
        if (chunk->capacity != 0) {
            c->queued -= (uint32_t)n;
        }
        if (chunk->begin < chunk->end) {
            return;
        }
        nki_out_pop(c);
        if (chunk->capacity == 0) {
            c->borrowed--;
            nki_release_later(loop, chunk);
        } else {
            nki_chunk_give(loop, chunk);
        }
    }
}

/* After the end: the next lent chunk whose release is due, the rest being freed; or NULL. */
static NKI_OUTLINE nki_chunk *nki_out_drop(netkit_loop *loop, nki_conn *c) {
    while (c->out != NULL) {
        nki_chunk *chunk = nki_out_pop(c);
        if (chunk->capacity == 0) {
            return chunk;
        }
        nki_chunk_give(loop, chunk);
    }
    c->queued = 0;
    return NULL;
}

/* ---- src/loop/input.c ---- */
/* Received bytes: the loop's shared receive buffer, what a handler leaves over (the carry), and
 * what it keeps.
 *
 * Nothing is parked for an idle conn: one block of 64 KiB serves all. Keeping a large span hands
 * that very block out and makes a new one; blocks come back through the keeper's stack, pushed
 * from any thread, and outlive the loop if need be. */

static nki_block *nki_block_new(nki_keeper *keeper, size_t capacity) {
    nki_block *block = (nki_block *)nki_alloc(&keeper->allocator, sizeof *block + capacity);
    if (block != NULL) {
        block->next = NULL;
        block->keeper = keeper;
        block->capacity = capacity;
    }
    return block;
}

static unsigned char *nki_block_data(nki_block *block) {
    return (unsigned char *)(block + 1);
}

static void nki_block_free(nki_block *block) {
    nki_keeper *keeper = block->keeper;
    nki_free(&keeper->allocator, block, sizeof *block + block->capacity);
}

static int nki_keeper_create(netkit_loop *loop) {
    nki_keeper *keeper = (nki_keeper *)nki_alloc_zero(&loop->allocator, sizeof *keeper);
    if (keeper == NULL) {
        return NETKIT_E_NOMEM;
    }
    keeper->allocator = loop->allocator;
    keeper->references = 1;
    loop->keeper = keeper;
    loop->recv = nki_block_new(keeper, NKI_RECV_SIZE);
    return loop->recv == NULL ? NETKIT_E_NOMEM : NETKIT_OK;
}

static void nki_keeper_drop(nki_keeper *keeper) {
    if (nki_atomic_add(&keeper->references, UINT32_MAX) == 0) {
        netkit_allocator allocator = keeper->allocator;
        nki_free(&allocator, keeper, sizeof *keeper);
    }
}

/* Free what has been given back: between turns alone, as a span may be in such a block. */
static void nki_keeper_reap(netkit_loop *loop) {
    if (nki_atomic_load_ptr_relaxed(&loop->keeper->returned) == NULL) {
        return;
    }
    nki_block *block = (nki_block *)nki_atomic_exchange_ptr(&loop->keeper->returned, NULL);
    while (block != NULL) {
        nki_block *next = block->next;
        loop->kept_bytes -= block->capacity;
        nki_block_free(block);
        nki_keeper_drop(loop->keeper);
        block = next;
    }
}

/* What is still out with the user is freed by whoever gives it back; the mark on the stack tells
 * them, and what was pushed before it is freed here. */
static void nki_keeper_destroy(netkit_loop *loop) {
    nki_keeper *keeper = loop->keeper;
    if (keeper == NULL) {
        return;
    }
    if (loop->recv != NULL) {
        nki_block_free(loop->recv);
    }
    nki_block *block = (nki_block *)nki_atomic_exchange_ptr(&keeper->returned, keeper);
    while (block != NULL) {
        nki_block *next = block->next;
        nki_block_free(block);
        nki_keeper_drop(keeper);
        block = next;
    }
    nki_keeper_drop(keeper);
    loop->keeper = NULL;
}

NETKIT_API void netkit_buf_release(netkit_buf *buf) {
    if (buf == NULL || buf->owner == NULL) {
        return;
    }
    nki_block *block = (nki_block *)buf->owner;
    nki_keeper *keeper = block->keeper;
    memset(buf, 0, sizeof *buf);
    void *top = nki_atomic_load_ptr(&keeper->returned);
    do {
        if (top == (void *)keeper) { /* the loop is gone */
            nki_block_free(block);
            nki_keeper_drop(keeper);
            return;
        }
        block->next = (nki_block *)top;
    } while (!nki_atomic_cas_ptr(&keeper->returned, &top, block));
}

/* ---- the carry ---- */

static unsigned char *nki_carry_data(nki_carry *carry) {
    return (unsigned char *)(carry + 1);
}

static size_t nki_carry_len(const nki_conn *c) {
    return c->carry == NULL ? 0 : c->carry->end - c->carry->begin;
}

static NKI_OUTLINE void nki_carry_free(netkit_loop *loop, nki_conn *c) {
    if (c->carry != NULL) {
        nki_free(&loop->allocator, c->carry, sizeof *c->carry + c->carry->capacity);
        c->carry = NULL;
    }
}

/* Room for `more` bytes behind what is there. */
static NKI_OUTLINE int nki_carry_reserve(netkit_loop *loop, nki_conn *c, size_t more) {
    nki_carry *old = c->carry;
    size_t len = nki_carry_len(c);
    if (old != NULL && old->capacity - old->end >= more) {
        return NETKIT_OK;
    }
    if (old != NULL && old->capacity - len >= more && old->begin >= len) {
        memcpy(nki_carry_data(old), nki_carry_data(old) + old->begin, len);
        old->begin = 0;
        old->end = len;
        return NETKIT_OK;
    }
    /* Doubling makes a stream of single bytes linear; the first one is small as most are. */
    size_t capacity = NKI_MAX(len + more, len == 0 ? more : len * 2);
    capacity = NKI_MAX(capacity, (size_t)256);
    nki_carry *carry = (nki_carry *)nki_alloc(&loop->allocator, sizeof *carry + capacity);
    if (carry == NULL) {
        return NETKIT_E_NOMEM;
    }
    carry->begin = 0;
    carry->end = len;
    carry->capacity = capacity;
    if (len > 0) {
        memcpy(nki_carry_data(carry), nki_carry_data(old) + old->begin, len);
    }
    nki_carry_free(loop, c);
    c->carry = carry;
    return NETKIT_OK;
}

static NKI_OUTLINE int nki_carry_append(netkit_loop *loop, nki_conn *c, const void *data,
                                        size_t len) {
    if (nki_carry_reserve(loop, c, len) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    memcpy(nki_carry_data(c->carry) + c->carry->end, data, len);
    c->carry->end += len;
    return NETKIT_OK;
}

static void nki_carry_consume(netkit_loop *loop, nki_conn *c, size_t used) {
    c->carry->begin += used;
    if (c->carry->begin == c->carry->end) {
        nki_carry_free(loop, c);
    }
}

/* ---- keeping ---- */

static int nki_keep_copy(netkit_loop *loop, nki_block **out) {
    nki_block *block = nki_block_new(loop->keeper, loop->span.len);
    if (block == NULL) {
        return NETKIT_E_NOMEM;
    }
    memcpy(nki_block_data(block), loop->span.data, loop->span.len);
    *out = block;
    return NETKIT_OK;
}

/* For drivers whose spans are in the shared buffer: hand it out and put a new one in its place. */
static int nki_keep_shared(netkit_loop *loop, uint64_t room, nki_block **out) {
    const unsigned char *recv = nki_block_data(loop->recv);
    if (loop->span.data != (const void *)recv || loop->span.len <= NKI_KEEP_COPY) {
        return NETKIT_OK;
    }
    if (room < NKI_RECV_SIZE) {
        return NETKIT_E_FULL;
    }
    nki_block *fresh = nki_block_new(loop->keeper, NKI_RECV_SIZE);
    if (fresh == NULL) {
        return NETKIT_E_NOMEM;
    }
    *out = loop->recv;
    loop->recv = fresh;
    return NETKIT_OK;
}

/* The block goes to the user whole, or, where too little of it is used, a copy does. */
static int nki_keep(netkit_loop *loop, netkit_buf *out) {
    uint64_t room = loop->desc.keep_max - loop->kept_bytes;
    nki_block *block = NULL;
    if (room < loop->span.len) {
        return NETKIT_E_FULL;
    }
    int error = loop->driver->keep(loop, room, &block);
    const void *data = loop->span.data;
    if (error == NETKIT_OK && block == NULL) {
        error = nki_keep_copy(loop, &block);
        data = block == NULL ? NULL : nki_block_data(block);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    out->data = data;
    out->owner = block;
    out->len = loop->span.len;
    loop->kept_bytes += block->capacity;
    (void)nki_atomic_add(&loop->keeper->references, 1);
    return NETKIT_OK;
}

/* ---- src/loop/conn.c ---- */
/* Conns: their life from the descriptor to on_close, and the one step a ready conn takes.
 *
 * A conn is alive, closing (netkit_conn_close was called: flush, FIN, discard until the peer's
 * FIN), or dead (its descriptor is shut; releases and on_close are due). Dying is a mark set at
 * once, anywhere; everything the user hears of it comes from the turn. Keeps I2, I3, I4, I9.
 *
 * A transport (TLS) has its place between conn and driver: received bytes pass
 * nki_conn_received() alone on their way up, queued ones nki_conn_flush() and
 * nki_conn_flush_stage() on their way down. */

static const char *const nki_why_texts[] = {
    "closed here, and the peer has ended its side",
    "the peer ended the stream and the connection was closed",
    "aborted by netkit_conn_abort",
    "the loop was destroyed",
    "connecting failed",
    "connecting took longer than its timeout",
    "receiving failed",
    "sending failed",
    "no byte moved for longer than the idle timeout",
    "the deadline of the connection is over",
    "the peer sent less than the minimum rate",
    "on_data used nothing of a full receive buffer",
    "the peer did not end its side within the close deadline",
    "the peer kept sending after the connection was closed here",
    "memory ran out while bytes were being queued",
    "memory ran out while bytes were being received",
    "memory ran out while the connection was being closed",
    "closed here before it was connected",
    "more descriptors came than may wait to be taken",
    "descriptors that came were lost, as the process had no room for them",
};

enum {
    NKI_WHY_CLOSED,
    NKI_WHY_PEER_END,
    NKI_WHY_ABORTED,
    NKI_WHY_DESTROYED,
    NKI_WHY_CONNECT,
    NKI_WHY_CONNECT_TIMEOUT,
    NKI_WHY_READ,
    NKI_WHY_WRITE,
    NKI_WHY_IDLE,
    NKI_WHY_DEADLINE,
    NKI_WHY_RATE,
    NKI_WHY_TOOBIG,
    NKI_WHY_CLOSE_DEADLINE,
    NKI_WHY_DRAIN_MAX,
    NKI_WHY_NOMEM_SEND,
    NKI_WHY_NOMEM_RECV,
    NKI_WHY_NOMEM_CLOSE,
    NKI_WHY_CANCELLED,
    NKI_WHY_FDS_MAX,
    NKI_WHY_FDS_LOST,
    NKI_WHY_COUNT_
};

NKI_STATIC_ASSERT(why_texts, NKI_COUNT(nki_why_texts) == NKI_WHY_COUNT_);

static NKI_HOT size_t nki_conn_room(const nki_conn *c);
static void nki_listener_room(netkit_loop *loop, uint64_t listener);
static void nki_fds_forget(netkit_loop *loop, nki_conn *c);
static void nki_udp_flush_dirty(netkit_loop *loop);

/* ---- behaviours ---- */

static int nki_options_init(netkit_conn_options *out, const netkit_conn_options *given,
                            const netkit_timeouts *timeouts) {
    *out = *given;
    uint32_t idle_ms = given->idle_timeout_ms == 0 ? timeouts->idle_ms : given->idle_timeout_ms;
    out->idle_timeout_ms = idle_ms == NETKIT_TIMEOUT_NONE ? 0 : idle_ms;
    out->send_max = given->send_max == 0 ? 262144 : given->send_max;
    out->recv_max = given->recv_max == 0 ? NKI_MIN(65536u, out->send_max) : given->recv_max;
    out->chunks_max = given->chunks_max == 0 ? 1024 : given->chunks_max;
    out->drain_max = given->drain_max == 0 ? 1048576 : given->drain_max;
    out->close_deadline_ms =
        given->close_deadline_ms == 0 ? timeouts->close_ms : given->close_deadline_ms;
    out->rate_period_ms = given->rate_period_ms == 0 ? 5000 : given->rate_period_ms;
    bool is_valid = out->send_max <= INT32_MAX && out->recv_max <= INT32_MAX &&
                    out->drain_max <= INT32_MAX && out->chunks_max <= UINT16_MAX &&
                    out->ext_size <= INT32_MAX && out->idle_timeout_ms <= INT32_MAX &&
                    out->keepalive_s <= INT16_MAX && out->user_timeout_ms <= INT32_MAX &&
                    out->recv_buffer <= INT32_MAX && out->send_buffer <= INT32_MAX &&
                    out->fds_max <= UINT16_MAX && out->close_deadline_ms != NETKIT_TIMEOUT_NONE &&
                    (out->duplex || out->recv_max <= out->send_max);
    return is_valid ? NETKIT_OK : NETKIT_E_INVALID;
}

static int nki_behaviour_create(netkit_loop *loop, const netkit_handler *handler,
                                const netkit_conn_options *options, nki_behaviour **out) {
    netkit_conn_options filled;
    int error = nki_options_init(&filled, options, &loop->desc.timeouts);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_behaviour *b = (nki_behaviour *)nki_alloc_zero(&loop->allocator, sizeof *b);
    if (b == NULL) {
        return NETKIT_E_NOMEM;
    }
    b->handler = *handler;
    b->is_plain = handler->on_data != NULL && loop->is_plain;
    b->options = filled;
    b->read_max = NKI_MIN((uint32_t)NKI_RECV_SIZE, filled.recv_max);
    b->stage_max = NKI_MIN((uint32_t)NKI_FLUSH_AT, filled.send_max);
    b->references = 1;
    b->origin = b;
    *out = b;
    return NETKIT_OK;
}

static void nki_behaviour_drop(netkit_loop *loop, nki_behaviour *b) {
    while (b != NULL && --b->references == 0) {
        nki_behaviour *origin = b->origin == b ? NULL : b->origin;
        if (origin != NULL && origin->derived == b) {
            origin->derived = NULL;
        }
        nki_free(&loop->allocator, b, sizeof *b);
        b = origin;
    }
}

/* The same conns with another table: shared with the last one made so, if it is equal. */
static nki_behaviour *nki_behaviour_derive(netkit_loop *loop, nki_behaviour *from,
                                           const netkit_handler *handler) {
    nki_behaviour *origin = from->origin;
    nki_behaviour *b = origin->derived;
    if (b != NULL && memcmp(&b->handler, handler, sizeof *handler) == 0) {
        b->references++;
        return b;
    }
    b = (nki_behaviour *)nki_alloc_zero(&loop->allocator, sizeof *b);
    if (b == NULL) {
        return NULL;
    }
    b->handler = *handler;
    b->is_plain = handler->on_data != NULL && loop->is_plain;
    b->options = origin->options;
    b->read_max = origin->read_max;
    b->stage_max = origin->stage_max;
    b->references = 1;
    b->origin = origin;
    origin->references++;
    origin->derived = b;
    return b;
}

/* ---- the cold part and its timer ---- */

static NKI_OUTLINE nki_cold *nki_conn_cold(netkit_loop *loop, nki_conn *c) {
    if (c->cold == NULL) {
        nki_cold *cold = (nki_cold *)nki_alloc_zero(&loop->allocator, sizeof *cold);
        if (cold == NULL) {
            return NULL;
        }
        cold->conn = c;
        cold->timer.kind = NKI_KIND_CONN;
        cold->connect_due_ns = NKI_NEVER;
        cold->close_due_ns = NKI_NEVER;
        cold->deadline_ns = NKI_NEVER;
        cold->rate_due_ns = NKI_NEVER;
        c->cold = cold;
    }
    return c->cold;
}

static void nki_cold_free(netkit_loop *loop, nki_conn *c) {
    if (c->cold != NULL) {
        nki_timers_stop(&loop->timers, &c->cold->timer);
        nki_free(&loop->allocator, c->cold, sizeof *c->cold);
        c->cold = NULL;
    }
}

/* Time without traffic. Milliseconds wrap after 49 days, so the difference is what counts; idle
 * timeouts are at most half of that and looked at more often. */
static uint32_t nki_conn_idle_ms(const netkit_loop *loop, const nki_conn *c) {
    return loop->turn_ms - c->u.live.active_ms;
}

/* Set the one timer to the earliest of its times. Traffic does not come here: when the timer
 * fires it looks at the time stamp of the last byte and goes on for the rest. */
static NKI_OUTLINE int nki_conn_set_timer(netkit_loop *loop, nki_conn *c) {
    nki_cold *cold = c->cold;
    uint64_t due = NKI_MIN(cold->connect_due_ns, cold->close_due_ns);
    due = NKI_MIN(due, NKI_MIN(cold->deadline_ns, cold->rate_due_ns));
    if (cold->idle_ms != 0) {
        uint32_t idle = nki_conn_idle_ms(loop, c);
        /* One more than asked: the time stamp was cut to milliseconds. */
        uint64_t left = idle > cold->idle_ms ? 0 : (uint64_t)cold->idle_ms + 1 - idle;
        due = NKI_MIN(due, loop->turn_ns + left * NKI_NS_PER_MS);
    }
    if (due == NKI_NEVER) {
        nki_timers_stop(&loop->timers, &cold->timer);
        return NETKIT_OK;
    }
    if (cold->timer.at != 0) {
        nki_timers_restart(&loop->timers, &cold->timer, due);
        return NETKIT_OK;
    }
    return nki_timers_start(&loop->timers, &cold->timer, due);
}

static uint64_t nki_after_ms(const netkit_loop *loop, uint64_t ms) {
    return loop->turn_ns + ms * NKI_NS_PER_MS;
}

/* ---- dying ---- */

static NKI_OUTLINE void nki_conn_reason(nki_conn *c, netkit_op op, int code, int why, int os_code) {
    c->u.end.op = (uint8_t)op;
    c->u.end.code = (int8_t)code;
    c->u.end.why = (uint8_t)why;
    c->u.end.os_code = os_code;
    c->u.end.phase = (uint8_t)((c->flags & NKI_C_CLOSING) != 0  ? NETKIT_PHASE_CLOSING
                               : (c->flags & NKI_C_OPENED) == 0 ? NETKIT_PHASE_CONNECTING
                                                                : NETKIT_PHASE_OPEN);
}

/* The end of a conn, from anywhere: nothing more is read, sent or told but its end. */
static NKI_OUTLINE void nki_conn_die(netkit_loop *loop, nki_conn *c, bool reset) {
    nki_stage_close(loop, c);
    c->flags |= NKI_C_DEAD;
    nki_cold_free(loop, c);
    nki_fds_forget(loop, c);
    loop->driver->shut(loop, &c->source, reset);
}

static NKI_OUTLINE void nki_conn_fail(netkit_loop *loop, nki_conn *c, netkit_op op, int code,
                                      int why, int os_code, bool reset) {
    if ((c->flags & NKI_C_DEAD) == 0) {
        nki_conn_reason(c, op, code, why, os_code);
        nki_conn_die(loop, c, reset);
    }
}

/* For drivers: no event or completion of this source can come any more. */
static void nki_gone(netkit_loop *loop, nki_source *source) {
    source->flags |= NKI_S_GONE;
    if (nki_id_kind(source->id) == NKI_KIND_CONN) {
        nki_conn *c = (nki_conn *)(void *)source;
        size_t unsent = nki_out_bytes(loop, c);
        c->tally = unsent > UINT32_MAX ? UINT32_MAX : (uint32_t)unsent;
        if ((c->flags & NKI_C_DIRTY) == 0) {
            nki_conn_queue_push(&loop->dead, c);
        } /* else the flush of the turn finds it and moves it */
    } else if (nki_id_kind(source->id) != 0) {
        nki_enqueue(loop, source);
    }
}

/* Give back what a conn owns besides its slot. */
static NKI_OUTLINE void nki_conn_dispose_parts(netkit_loop *loop, nki_conn *c) {
    nki_behaviour *b = c->behaviour;
    nki_carry_free(loop, c);
    nki_ext_free(&loop->allocator, c->ext, b->options.ext_size);
    c->ext = NULL;
    b->origin->conns--;
    if (b->origin->listener != 0) {
        nki_listener_room(loop, b->origin->listener);
    }
    nki_behaviour_drop(loop, b);
    c->behaviour = NULL;
}

static void nki_conn_dispose(netkit_loop *loop, nki_conn *c) {
    nki_conn_dispose_parts(loop, c);
    nki_bury(loop, &c->source);
}

static void nki_conn_close_info(const nki_conn *c, netkit_close_info *info) {
    info->code = c->u.end.code;
    info->os_code = c->u.end.os_code;
    info->op = (netkit_op)c->u.end.op;
    info->phase = (netkit_phase)c->u.end.phase;
    info->text = nki_why_texts[c->u.end.why];
    info->unsent = c->tally;
}

/* One callback of the first dead conn: a release of lent memory, or on_close. */
static void nki_conn_bury_step(netkit_loop *loop, nki_conn *c) {
    nki_chunk *lent = nki_out_drop(loop, c);
    if (lent != NULL) {
        nki_release(loop, lent,
                    c->u.end.code == NETKIT_OK ? (int)NETKIT_E_CANCELLED : c->u.end.code);
        return;
    }
    nki_conn_queue_pop(&loop->dead);
    if ((c->flags & NKI_C_UNTOLD) != 0) { /* destroyed between accept and on_open */
        nki_conn_dispose(loop, c);
        return;
    }
    netkit_close_info info;
    nki_conn_close_info(c, &info);
    if (c->behaviour->handler.on_close != NULL) {
        uint64_t started = nki_call_begin(loop);
        c->behaviour->handler.on_close(loop, nki_conn_handle(c), &info, c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_CLOSE, c, c->user);
        ev->conn = nki_conn_handle(c);
        ev->close = info;
        return; /* disposed of when the next event is fetched */
    }
    nki_conn_dispose(loop, c);
}

/* ---- sending ---- */

static void nki_conn_mark_dirty(netkit_loop *loop, nki_conn *c) {
    if (loop->current != c && (c->flags & NKI_C_DIRTY) == 0) {
        c->flags |= NKI_C_DIRTY;
        nki_conn_queue_push(&loop->dirty, c);
    }
}

/* The queue has shrunk: who waited for that? */
static void nki_conn_progress(netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_REFUSED) != 0 && c->u.live.refused <= nki_out_room(loop, c) &&
        c->borrowed < c->behaviour->options.chunks_max) {
        c->flags = (c->flags & ~(uint32_t)NKI_C_REFUSED) | NKI_C_DRAIN_DUE;
        nki_enqueue_later(loop, &c->source); /* in turn with the others: it will send more */
    }
    if ((c->source.ready & NKI_READABLE) != 0 || (c->flags & NKI_C_REOFFER) != 0) {
        nki_enqueue(loop, &c->source);
    }
}

static void nki_conn_flush_failed(netkit_loop *loop, nki_conn *c, int error) {
    nki_conn_fail(loop, c, NETKIT_OP_WRITE, error, NKI_WHY_WRITE, loop->driver->os_code(), false);
}

/* Part of what is staged did not go: it becomes the queue. */
static NKI_COLD void nki_conn_stage_rest(netkit_loop *loop, nki_conn *c, int n) {
    if (n == NETKIT_E_AGAIN) {
        c->flags |= NKI_C_STALLED;
        n = 0;
    }
    if (n < 0) {
        nki_conn_flush_failed(loop, c, n);
    }
    if ((c->flags & NKI_C_DEAD) != 0) {
        loop->stage_len = 0; /* counted as unsent when it died; the next conn starts afresh */
        return;
    }
    loop->stage_len -= (size_t)n;
    memmove(loop->stage, loop->stage + n, loop->stage_len);
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_WRITE, NETKIT_E_NOMEM, NKI_WHY_NOMEM_SEND, 0, true);
    }
    loop->stage_len = 0; /* of a dead conn too: else it would go out with the next conn's */
}

/* Send what the current conn has staged, in one call. Returns whether all of it went. */
static NKI_HOT bool nki_conn_flush_stage(netkit_loop *loop, nki_conn *c) {
    int n = 0;
    if (NKI_LIKELY((c->flags & NKI_C_HELD) == 0)) {
        n = loop->driver->send(loop, c, loop->stage, loop->stage_len);
    }
    if (NKI_UNLIKELY((size_t)n != loop->stage_len)) {
        nki_conn_stage_rest(loop, c, n);
        return false;
    }
    loop->stage_len = 0;
    return true;
}

/* What is staged is about to go: the idle time begins anew. */
static void nki_conn_touch(const netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_HELD) == 0) {
        c->u.live.active_ms = loop->turn_ms;
    }
}

/* Whether a stalled conn has been told of room; it is not stalled any more then. */
static bool nki_conn_unstall(nki_conn *c) {
    const uint32_t writable = NETKIT_POLL_WRITE | NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
    bool is_unstalled = (c->flags & NKI_C_STALLED) != 0 && (c->source.ready & writable) != 0;
    /* Before the flush: one that ends at its budget sets it again. */
    c->source.ready = (uint16_t)(c->source.ready & ~(uint32_t)NETKIT_POLL_WRITE);
    if (is_unstalled) {
        c->flags &= ~(uint32_t)NKI_C_STALLED;
    }
    return is_unstalled;
}

/* Send what is queued, as far as the system takes it. */
static NKI_OUTLINE void nki_conn_flush(netkit_loop *loop, nki_conn *c) {
    loop->reserved = NULL;
    if (loop->is_flushing && (c->flags & NKI_C_HELD) == NKI_C_STALLED) {
        (void)nki_conn_unstall(c); /* a turn does so when the conn is served */
    }
    if (nki_staged(loop, c) != 0) {
        nki_conn_touch(loop, c);
        (void)nki_conn_flush_stage(loop, c);
        nki_stage_reopen(loop, c);
    }
    c->unflushed = 0;
    if ((c->flags & NKI_C_CORKED) != 0) {
        c->flags |= NKI_C_FLUSHING;
    }
    if ((c->flags & NKI_C_HELD) != 0) {
        return;
    }
    int error = c->out == NULL ? NETKIT_OK : loop->driver->flush(loop, c);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        nki_conn_flush_failed(loop, c, error);
        return;
    }
    nki_conn_progress(loop, c);
}

static bool nki_conn_has_output(const netkit_loop *loop, const nki_conn *c) {
    return c->out != NULL || nki_staged(loop, c) != 0;
}

/* What follows from an empty queue: our FIN, and the end of a close. */
static void nki_conn_advance(netkit_loop *loop, nki_conn *c) {
    if (c->out != NULL || (c->flags & (NKI_C_DEAD | NKI_C_CONNECTING)) != 0) {
        return;
    }
    bool is_closing = (c->flags & NKI_C_CLOSING) != 0;
    if (is_closing && (c->flags & NKI_C_EOF) != 0) {
        int why = (c->flags & NKI_C_BY_PEER) != 0 ? NKI_WHY_PEER_END : NKI_WHY_CLOSED;
        nki_conn_fail(loop, c, why == NKI_WHY_PEER_END ? NETKIT_OP_READ : NETKIT_OP_CLOSE,
                      NETKIT_OK, why, 0, false);
        return;
    }
    if ((c->flags & (NKI_C_SHUT | NKI_C_FIN_SENT)) == NKI_C_SHUT) {
        int error = loop->driver->half_close(loop, c);
        if (error != NETKIT_OK) {
            nki_conn_fail(loop, c, NETKIT_OP_WRITE, error, NKI_WHY_WRITE, loop->driver->os_code(),
                          false);
            return;
        }
        c->flags |= NKI_C_FIN_SENT;
    }
}

/* Tell a driver that asks what we now want to hear of. */
static NKI_OUTLINE void nki_conn_arm(netkit_loop *loop, nki_conn *c) {
    if (!loop->is_arming || (c->flags & NKI_C_DEAD) != 0) {
        return;
    }
    uint32_t wanted = 0;
    if ((c->flags & (NKI_C_CONNECTING | NKI_C_STALLED)) != 0) {
        wanted |= NETKIT_POLL_WRITE;
    }
    if (nki_conn_room(c) > 0 && (c->flags & (NKI_C_CONNECTING | NKI_C_EOF)) == 0) {
        wanted |= NETKIT_POLL_READ;
    }
    const uint32_t ended = NKI_C_EOF | NKI_C_EOF_TOLD | NKI_C_TCP;
    if ((c->flags & (ended | NKI_C_FIN_SENT)) == ended) {
        wanted |=
            NETKIT_POLL_PRIORITY; /* nothing but a reset can come, and it is not to be missed */
    }
    loop->driver->arm(loop, &c->source, wanted);
}

/* A cork holds back what is small; never what the conn needs to go on reading, nor the rest of what
 * has begun to go. */
static bool nki_conn_is_corked(const nki_conn *c) {
    return (c->flags & (NKI_C_CORKED | NKI_C_FLUSHING | NKI_C_REFUSED)) == NKI_C_CORKED &&
           c->unflushed < NKI_FLUSH_AT && nki_conn_room(c) > 0;
}

static NKI_OUTLINE void nki_conn_after_slow(netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_DEAD) != 0) {
        return;
    }
    if ((c->out != NULL || (c->flags & NKI_C_REFUSED) != 0) && !nki_conn_is_corked(c)) {
        nki_conn_flush(loop, c);
    }
    if ((c->flags & (NKI_C_SHUT | NKI_C_CLOSING)) != 0) {
        nki_conn_advance(loop, c);
    }
    const uint32_t eof = NKI_C_EOF | NKI_C_EOF_TOLD | NKI_C_CLOSING | NKI_C_PAUSED;
    if ((c->source.ready & NKI_READABLE) != 0 || (c->flags & NKI_C_DUE) != 0 ||
        (c->flags & eof) == NKI_C_EOF) {
        nki_enqueue(loop, &c->source);
    }
    nki_conn_arm(loop, c);
}

/* After each callback of a conn, and whenever its state has changed: what it queued goes out, and
 * it is served again if there is more to do. */
static NKI_OUTLINE void nki_conn_after(netkit_loop *loop, nki_conn *c) {
    if (NKI_LIKELY(loop->current == c)) {
        if (loop->stage_len != 0) {
            nki_conn_touch(loop, c);
            (void)nki_conn_flush_stage(loop, c);
        }
        loop->stage_len = 0;
        loop->stage_room = 0;
        loop->current = NULL;
    }
    bool is_plain = (c->flags & ~(uint32_t)NKI_C_PLAIN) == 0 && c->out == NULL &&
                    (c->source.ready & NKI_READABLE) == 0;
    if (NKI_UNLIKELY(!is_plain || loop->is_arming)) {
        nki_conn_after_slow(loop, c);
    }
}

/* Flush what was queued outside its own callback. */
static void nki_flush_dirty(netkit_loop *loop) {
    nki_conn *c;
    while ((c = nki_conn_queue_pop(&loop->dirty)) != NULL) {
        c->flags &= ~(uint32_t)NKI_C_DIRTY;
        if ((c->flags & NKI_C_DEAD) != 0) {
            if ((c->source.flags & NKI_S_GONE) != 0) {
                nki_conn_queue_push(&loop->dead, c);
            }
        } else if (c == loop->current) {
            if (!nki_conn_is_corked(c)) {
                nki_conn_flush(loop, c); /* its callback goes on */
            }
        } else {
            nki_conn_after(loop, c);
        }
    }
    if (NKI_UNLIKELY(loop->udp_dirty != NULL)) {
        nki_udp_flush_dirty(loop);
    }
}

/* ---- closing ---- */

/* Start a graceful close; nki_conn_after carries it on. */
static NKI_OUTLINE void nki_conn_begin_close(netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_CONNECTING) != 0) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_CANCELLED, NKI_WHY_CANCELLED, 0, false);
        return;
    }
    nki_stage_close(loop, c);
    c->flags |= NKI_C_CLOSING | NKI_C_SHUT;
    c->flags &=
        ~(uint32_t)(NKI_C_PAUSED | NKI_C_REOFFER | NKI_C_DRAIN_DUE | NKI_C_REFUSED | NKI_C_CORKED);
    if (!nki_conn_has_output(loop, c) && (c->flags & NKI_C_EOF) != 0) {
        return; /* over at once: needs no deadline */
    }
    nki_cold *cold = nki_conn_cold(loop, c);
    if (cold != NULL) {
        cold->close_due_ns = nki_after_ms(loop, c->behaviour->options.close_deadline_ms);
        cold->deadline_ns = NKI_NEVER;
        cold->rate_due_ns = NKI_NEVER;
        cold->idle_ms = 0;
    }
    if (cold == NULL || nki_conn_set_timer(loop, c) != NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_NOMEM, NKI_WHY_NOMEM_CLOSE, 0, true);
    }
}

/* ---- the timer ---- */

static void nki_conn_rate_check(netkit_loop *loop, nki_conn *c) {
    const netkit_conn_options *o = &c->behaviour->options;
    nki_cold *cold = c->cold;
    bool is_slow =
        cold->rate_bytes < o->rate_min && nki_conn_room(c) > 0 && (c->flags & NKI_C_EOF) == 0;
    if (is_slow) {
        nki_conn_fail(loop, c, NETKIT_OP_TIMER, NETKIT_E_TIMEOUT, NKI_WHY_RATE, 0, c->out != NULL);
        return;
    }
    cold->rate_bytes = 0;
    cold->rate_due_ns = nki_after_ms(loop, o->rate_period_ms);
}

static void nki_conn_timer_fired(netkit_loop *loop, nki_conn *c) {
    nki_cold *cold = c->cold;
    uint64_t now = loop->turn_ns;
    bool has_unsent = c->out != NULL;
    if (cold->connect_due_ns <= now) {
        nki_conn_fail(loop, c, NETKIT_OP_CONNECT, NETKIT_E_TIMEOUT, NKI_WHY_CONNECT_TIMEOUT, 0,
                      false);
    } else if (cold->close_due_ns <= now) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_TIMEOUT, NKI_WHY_CLOSE_DEADLINE, 0, true);
    } else if (cold->deadline_ns <= now) {
        nki_conn_fail(loop, c, NETKIT_OP_TIMER, NETKIT_E_TIMEOUT, NKI_WHY_DEADLINE, 0, has_unsent);
    } else if (cold->idle_ms != 0 && nki_conn_idle_ms(loop, c) > cold->idle_ms) {
        nki_conn_fail(loop, c, NETKIT_OP_TIMER, NETKIT_E_TIMEOUT, NKI_WHY_IDLE, 0, has_unsent);
    } else {
        if (cold->rate_due_ns <= now) {
            nki_conn_rate_check(loop, c);
        }
        if ((c->flags & NKI_C_DEAD) == 0) {
            (void)nki_conn_set_timer(loop, c); /* its place in the queue is still there */
        }
    }
}

/* ---- making one ---- */

/* Undo nki_conn_create before anybody heard of it. */
static void nki_conn_undo(netkit_loop *loop, nki_conn *c) {
    nki_cold_free(loop, c);
    nki_conn_dispose_parts(loop, c);
    nki_source_undo(loop, &c->source);
}

/* A conn around a socket, not yet with the driver. On failure the socket is still the caller's. */
static int nki_conn_create(netkit_loop *loop, nki_behaviour *b, void *user, uintptr_t socket,
                           nki_conn **out) {
    void *object;
    int error = nki_source_take(loop, NKI_KIND_CONN, socket, &object);
    nki_conn *c = (nki_conn *)object;
    *out = NULL;
    if (error != NETKIT_OK) {
        return error;
    }
    c->behaviour = b;
    c->user = user;
    c->u.live.active_ms = loop->turn_ms;
    b->references++;
    b->conns++;
    if (b->options.duplex) {
        c->flags |= NKI_C_DUPLEX;
    }
    error = nki_ext_create(&loop->allocator, b->options.ext_size, &c->ext);
    if (error != NETKIT_OK) {
        nki_conn_undo(loop, c);
        return error;
    }
    *out = c;
    return NETKIT_OK;
}

/* Timeouts that run from the start. */
static int nki_conn_start_timeouts(netkit_loop *loop, nki_conn *c, uint64_t connect_ms) {
    const netkit_conn_options *o = &c->behaviour->options;
    if (o->idle_timeout_ms == 0 && o->deadline_ms == 0 && o->rate_min == 0 && connect_ms == 0) {
        return NETKIT_OK;
    }
    nki_cold *cold = nki_conn_cold(loop, c);
    if (cold == NULL) {
        return NETKIT_E_NOMEM;
    }
    cold->idle_ms = o->idle_timeout_ms;
    cold->deadline_ns = o->deadline_ms == 0 ? NKI_NEVER : nki_after_ms(loop, o->deadline_ms);
    c->flags |= o->rate_min == 0 ? 0 : (uint32_t)NKI_C_COUNTED;
    cold->rate_due_ns = o->rate_min == 0 ? NKI_NEVER : nki_after_ms(loop, o->rate_period_ms);
    cold->connect_due_ns = connect_ms == 0 ? NKI_NEVER : nki_after_ms(loop, connect_ms);
    return nki_conn_set_timer(loop, c);
}

static int nki_option_wanted(netkit_loop *loop, uintptr_t socket, netkit_option option,
                             uint32_t value) {
    if (value == 0) {
        return NETKIT_OK;
    }
    int error = loop->driver->set_option(loop, socket, option, (int)value);
    return error == NETKIT_E_NOSYS ? NETKIT_OK : error;
}

static int nki_buffers_wanted(netkit_loop *loop, uintptr_t socket, const netkit_conn_options *o) {
    int error = nki_option_wanted(loop, socket, NETKIT_OPT_RECV_BUFFER, o->recv_buffer);
    return error != NETKIT_OK
               ? error
               : nki_option_wanted(loop, socket, NETKIT_OPT_SEND_BUFFER, o->send_buffer);
}

/* Options that an accepted socket did not inherit: those of unix sockets inherit none. */
static int nki_conn_set_options(netkit_loop *loop, nki_conn *c, bool is_accepted) {
    const netkit_conn_options *o = &c->behaviour->options;
    uintptr_t s = c->source.socket;
    bool is_tcp = (c->flags & NKI_C_TCP) != 0;
    int error = is_tcp && is_accepted ? NETKIT_OK : nki_buffers_wanted(loop, s, o);
    if (!is_tcp) {
        c->flags |= o->fds_max != 0 ? (uint32_t)NKI_C_FDS : 0;
        return error;
    }
    if (error == NETKIT_OK && !is_accepted && !o->no_nodelay) {
        error = nki_option_wanted(loop, s, NETKIT_OPT_NODELAY, 1);
    }
    if (error == NETKIT_OK && o->keepalive_s != 0) {
        error = nki_option_wanted(loop, s, NETKIT_OPT_KEEPALIVE_IDLE, o->keepalive_s);
        if (error == NETKIT_OK) {
            error = nki_option_wanted(loop, s, NETKIT_OPT_KEEPALIVE, 1);
        }
    }
    if (error == NETKIT_OK) {
        error = nki_option_wanted(loop, s, NETKIT_OPT_USER_TIMEOUT, o->user_timeout_ms);
    }
    return error;
}

/* ---- src/loop/receive.c ---- */
/* Receiving: what a ready conn does, one user event a step, so that a turn can stop after each.
 *
 * Order within a step is the order of contract C1 and invariant I3: connected, writable again,
 * drained, data, end of file. A conn that may not read now (paused, or its own queue could not
 * take an answer) simply keeps its ready bits: resume and progress bring it back. */

static bool nki_conn_is_reading(const nki_conn *c) {
    return (c->flags & NKI_C_CLOSING) != 0 || (c->flags & NKI_C_PAUSED) == 0;
}

/* How many bytes may be read now. 0: the handler could not answer them, or holds enough. While a
 * conn is not duplex its queue must be able to take all that the handler is given (C3). */
static size_t nki_conn_room_slow(const nki_conn *c) {
    const netkit_conn_options *o = &c->behaviour->options;
    if ((c->flags & NKI_C_CLOSING) != 0) {
        return NKI_RECV_SIZE;
    }
    if ((c->flags & NKI_C_PAUSED) != 0) {
        return 0;
    }
    size_t carried = nki_carry_len(c);
    size_t room = NKI_MIN((size_t)NKI_RECV_SIZE, o->recv_max > carried ? o->recv_max - carried : 0);
    if ((c->flags & NKI_C_DUPLEX) != 0) {
        return room;
    }
    size_t free_bytes = o->send_max > c->queued ? o->send_max - c->queued : 0;
    if (c->queued > 0 && free_bytes < NKI_MIN((size_t)NKI_RECV_SIZE, (size_t)o->send_max)) {
        return 0;
    }
    return NKI_MIN(room, free_bytes > carried ? free_bytes - carried : 0);
}

static NKI_HOT size_t nki_conn_room(const nki_conn *c) {
    bool is_plain =
        (c->flags & (NKI_C_PAUSED | NKI_C_CLOSING)) == 0 && c->queued == 0 && c->carry == NULL;
    return NKI_LIKELY(is_plain) ? c->behaviour->read_max : nki_conn_room_slow(c);
}

/* Whether the handler could answer what is carried. */
static bool nki_conn_may_offer(const nki_conn *c) {
    uint32_t send_max = c->behaviour->options.send_max;
    return (c->flags & NKI_C_DUPLEX) != 0 || c->queued == 0 ||
           (c->queued < send_max && send_max - c->queued >= nki_carry_len(c));
}

static void nki_conn_toobig(netkit_loop *loop, nki_conn *c) {
    nki_conn_fail(loop, c, NETKIT_OP_READ, NETKIT_E_TOOBIG, NKI_WHY_TOOBIG, 0, true);
}

static NKI_COLD void nki_conn_check_ignored(netkit_loop *loop, nki_conn *c, bool used_all) {
    loop->ignored = NULL;
    if (used_all && (c->flags & (NKI_C_PAUSED | NKI_C_DEAD | NKI_C_CLOSING)) == 0) {
        nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_IGNORED_SEND,
                "a send was refused with NETKIT_E_FULL, yet on_data used up all it was given: "
                "with duplex, pause or use less until on_drain",
                0);
    }
}

/* Nothing is out of the ordinary: open, nothing queued, nothing carried. */
static NKI_HOT bool nki_conn_is_plain(const nki_conn *c) {
    return (c->flags & ~(uint32_t)NKI_C_PLAIN) == 0 && c->out == NULL && c->carry == NULL;
}

/* The driver may have its buffer back. */
static NKI_HOT void nki_read_done(netkit_loop *loop, nki_conn *c) {
    if (loop->driver->read_done != NULL) {
        loop->driver->read_done(loop, c);
    }
}

/* Not all was used, or it was carried before: keep the rest. */
static void nki_conn_keep_rest(netkit_loop *loop, nki_conn *c, size_t used) {
    netkit_span span = loop->span;
    bool is_dead = (c->flags & NKI_C_DEAD) != 0;
    if (loop->span_is_carry) {
        nki_carry_consume(loop, c, used);
    } else if (!is_dead && nki_carry_append(loop, c, (const char *)span.data + used,
                                            span.len - used) != NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_READ, NETKIT_E_NOMEM, NKI_WHY_NOMEM_RECV, 0, true);
    }
    if (used == 0 && nki_carry_len(c) >= c->behaviour->options.recv_max &&
        (c->flags & (NKI_C_CLOSING | NKI_C_PAUSED | NKI_C_REFUSED | NKI_C_DRAIN_DUE)) == 0) {
        nki_conn_toobig(loop, c);
    }
}

/* The handler has returned: keep what it left, send what it queued. */
static NKI_OUTLINE void nki_conn_after_data(netkit_loop *loop, nki_conn *c, size_t used) {
    size_t len = loop->span.len;
    used = NKI_MIN(used, len);
    if (NKI_UNLIKELY(loop->ignored == c)) {
        nki_conn_check_ignored(loop, c, used == len);
    }
    if (NKI_UNLIKELY(used != len || loop->span_is_carry)) {
        nki_conn_keep_rest(loop, c, used);
    }
    if (!loop->span_is_carry) {
        nki_read_done(loop, c);
    }
    nki_conn_after(loop, c);
}

/* Give a span to the handler (or hand it out to a puller). */
static NKI_OUTLINE void nki_conn_offer(netkit_loop *loop, nki_conn *c, const void *data, size_t len,
                                       bool is_carry) {
    nki_stage_open(loop, c);
    loop->span.data = data;
    loop->span.len = len;
    loop->span_is_carry = is_carry;
    const netkit_handler *h = &c->behaviour->handler;
    size_t used = len;
    if (NKI_LIKELY(h->on_data != NULL)) {
        uint64_t started = nki_call_begin(loop);
        used = h->on_data(loop, nki_conn_handle(c), data, len, c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_DATA, c, c->user);
        ev->conn = nki_conn_handle(c);
        ev->data = data;
        ev->len = len;
        loop->pulled_used = len;
        return;
    }
    nki_conn_after_data(loop, c, used);
}

static void nki_conn_offer_carry(netkit_loop *loop, nki_conn *c) {
    nki_conn_offer(loop, c, nki_carry_data(c->carry) + c->carry->begin, nki_carry_len(c), true);
}

/* A closing conn reads only to find the peer's end. */
static void nki_conn_discard(netkit_loop *loop, nki_conn *c, size_t len) {
    nki_read_done(loop, c);
    nki_cold *cold = c->cold;
    cold->drained += (uint32_t)len;
    if (cold->drained > c->behaviour->options.drain_max) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_TOOBIG, NKI_WHY_DRAIN_MAX, 0, true);
        return;
    }
    nki_conn_after(loop, c);
}

static NKI_OUTLINE void nki_conn_received(netkit_loop *loop, nki_conn *c, const void *data,
                                          size_t len) {
    c->u.live.active_ms = loop->turn_ms;
    if ((c->flags & NKI_C_COUNTED) != 0) {
        c->cold->rate_bytes += len;
    }
    if (NKI_UNLIKELY((c->flags & NKI_C_CLOSING) != 0)) {
        nki_conn_discard(loop, c, len);
    } else if (NKI_LIKELY(c->carry == NULL)) {
        nki_conn_offer(loop, c, data, len, false);
    } else {
        int error = nki_carry_append(loop, c, data, len);
        nki_read_done(loop, c);
        if (error != NETKIT_OK) {
            nki_conn_fail(loop, c, NETKIT_OP_READ, error, NKI_WHY_NOMEM_RECV, 0, true);
            return;
        }
        nki_conn_offer_carry(loop, c);
    }
}

/* Tell the end of file, or act on it. */
static void nki_conn_tell_eof(netkit_loop *loop, nki_conn *c) {
    c->flags |= NKI_C_EOF_TOLD;
    const netkit_handler *h = &c->behaviour->handler;
    if (h->on_eof != NULL) {
        nki_stage_open(loop, c);
        uint64_t started = nki_call_begin(loop);
        h->on_eof(loop, nki_conn_handle(c), c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_EOF, c, c->user);
        ev->conn = nki_conn_handle(c);
        nki_stage_open(loop, c);
        return;
    } else {
        c->flags |= NKI_C_BY_PEER;
        nki_conn_begin_close(loop, c);
    }
    nki_conn_after(loop, c);
}

static void nki_conn_tell_drain(netkit_loop *loop, nki_conn *c) {
    c->flags &= ~(uint32_t)NKI_C_DRAIN_DUE;
    if (c->carry != NULL) {
        c->flags |= NKI_C_REOFFER;
    }
    const netkit_handler *h = &c->behaviour->handler;
    if (h->on_drain != NULL) {
        nki_stage_open(loop, c);
        uint64_t started = nki_call_begin(loop);
        h->on_drain(loop, nki_conn_handle(c), c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_DRAIN, c, c->user);
        ev->conn = nki_conn_handle(c);
        nki_stage_open(loop, c);
        return;
    }
    nki_conn_after(loop, c);
}

static void nki_conn_tell_open(netkit_loop *loop, nki_conn *c) {
    c->flags = (c->flags & ~(uint32_t)(NKI_C_OPEN_DUE | NKI_C_UNTOLD)) | NKI_C_OPENED;
    const netkit_handler *h = &c->behaviour->handler;
    if (h->on_open != NULL) {
        nki_stage_open(loop, c);
        uint64_t started = nki_call_begin(loop);
        h->on_open(loop, nki_conn_handle(c), c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_OPEN, c, c->user);
        ev->conn = nki_conn_handle(c);
        nki_stage_open(loop, c);
        return;
    }
    nki_conn_after(loop, c);
}

static void nki_conn_read_failed(netkit_loop *loop, nki_conn *c, int error) {
    if (error == NETKIT_E_AGAIN) {
        c->tally = 0;
        nki_conn_arm(loop, c);
    } else if (error == NETKIT_E_EOF) {
        bool is_news = (c->flags & NKI_C_EOF) == 0;
        c->flags |= NKI_C_EOF;
        c->source.ready = (uint16_t)(c->source.ready & (NKI_POLL_ALWAYS | ~(uint32_t)NKI_READABLE));
        if ((c->flags & NKI_C_CLOSING) != 0) {
            nki_conn_after(loop, c);
        } else if (is_news) {
            nki_enqueue(loop, &c->source);
        }
    } else {
        nki_conn_fail(loop, c, NETKIT_OP_READ, error, NKI_WHY_READ, loop->driver->os_code(), false);
    }
}

static int nki_conn_read_fds(netkit_loop *loop, nki_conn *c, size_t max);

/* Read one span of at most `max` bytes. */
static NKI_OUTLINE void nki_conn_read_span(netkit_loop *loop, nki_conn *c, size_t max) {
    if (NKI_UNLIKELY(c->tally >= loop->desc.conn_budget)) {
        c->tally = 0;
        nki_enqueue_later(loop, &c->source);
        return;
    }
    bool has_fds = (c->flags & (NKI_C_FDS | NKI_C_CLOSING)) == NKI_C_FDS;
    int n = has_fds ? nki_conn_read_fds(loop, c, max) : loop->driver->read(loop, c, max);
    if (NKI_UNLIKELY(n == 0)) {
        return; /* it has died of its descriptors */
    }
    if (NKI_LIKELY(n > 0)) {
        c->tally = (c->source.ready & NKI_READABLE) == 0 ? 0 : c->tally + (uint32_t)n;
        nki_conn_received(loop, c, loop->span.data, (size_t)n);
    } else {
        nki_conn_read_failed(loop, c, n);
    }
}

/* After the peer's end only a reset can still come. Reading would go on to say that it has ended
 * (Linux), and nobody may be going to send. */
static NKI_COLD void nki_conn_after_end(netkit_loop *loop, nki_conn *c) {
    bool is_over = (c->flags & NKI_C_FIN_SENT) != 0 || (c->flags & NKI_C_TCP) == 0;
    uint32_t trouble = c->source.ready & (is_over ? (uint32_t)NETKIT_POLL_ERROR : NKI_POLL_ALWAYS);
    c->source.ready = (uint16_t)(c->source.ready & ~NKI_READABLE);
    int error = trouble == 0 ? NETKIT_OK : loop->driver->failed(loop, c);
    if (error == NETKIT_E_NOTCONN) { /* the error itself was read before, or there was none */
        error = is_over ? NETKIT_OK : NETKIT_E_RESET;
    }
    if (error != NETKIT_OK && error != NETKIT_E_AGAIN) {
        nki_conn_fail(loop, c, NETKIT_OP_READ, error, NKI_WHY_READ, loop->driver->os_code(), false);
    }
}

static void nki_conn_read(netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_EOF) != 0) {
        nki_conn_after_end(loop, c);
        return;
    }
    size_t max = nki_conn_room(c);
    if (max != 0) {
        nki_conn_read_span(loop, c, max);
    } else {
        nki_conn_arm(loop, c);
    }
}

/* The system says that connecting has ended. */
static void nki_conn_connected(netkit_loop *loop, nki_conn *c) {
    int error = loop->driver->connected(loop, c);
    if (error == NETKIT_E_AGAIN) {
        return;
    }
    if (error != NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_CONNECT, error, NKI_WHY_CONNECT, loop->driver->os_code(),
                      false);
        return;
    }
    c->flags &= ~(uint32_t)NKI_C_CONNECTING;
    c->u.live.active_ms = loop->turn_ms;
    c->cold->connect_due_ns = NKI_NEVER;
    (void)nki_conn_set_timer(loop, c); /* it is in the queue: moving it cannot fail */
    nki_conn_tell_open(loop, c);
}

/* The handler waits for a drain with bytes left over: they come before the end of file. */
static bool nki_conn_owes_rest(const nki_conn *c) {
    const uint32_t waits = NKI_C_REFUSED | NKI_C_DRAIN_DUE | NKI_C_REOFFER;
    return c->carry != NULL && (c->flags & waits) != 0;
}

/* A step of a conn that is not just open and readable. */
static void nki_conn_step_slow(netkit_loop *loop, nki_conn *c) {
    const uint32_t writable = NETKIT_POLL_WRITE | NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
    if ((c->flags & NKI_C_DEAD) != 0) {
        return;
    }
    if ((c->flags & NKI_C_CONNECTING) != 0) {
        if ((c->source.ready & writable) != 0) {
            nki_conn_connected(loop, c);
        }
        return;
    }
    if ((c->flags & NKI_C_OPEN_DUE) != 0) {
        nki_conn_tell_open(loop, c);
        return;
    }
    if (nki_conn_unstall(c)) {
        nki_conn_after(loop, c);
        if ((c->flags & NKI_C_DEAD) != 0) {
            return;
        }
    }
    if ((c->flags & NKI_C_DRAIN_DUE) != 0) {
        nki_conn_tell_drain(loop, c);
        return;
    }
    bool is_reading = nki_conn_is_reading(c);
    if ((c->flags & NKI_C_REOFFER) != 0 && is_reading && nki_conn_may_offer(c)) {
        c->flags &= ~(uint32_t)NKI_C_REOFFER;
        if (c->carry != NULL && (c->flags & NKI_C_CLOSING) == 0) {
            nki_conn_offer_carry(loop, c);
            return;
        }
    }
    if ((c->flags & (NKI_C_EOF | NKI_C_EOF_TOLD | NKI_C_CLOSING)) == NKI_C_EOF) {
        if (is_reading && !nki_conn_owes_rest(c)) {
            nki_conn_tell_eof(loop, c); /* a reset behind it comes after it */
        }
    } else if ((c->source.ready & NKI_READABLE) != 0) {
        nki_conn_read(loop, c);
    }
}

/* The same as reading, offering and what follows, for the state nearly every message finds: an
 * open conn with nothing queued or carried, all used up, the answer sent in one call. Whatever is
 * otherwise goes the long way from that point on. */
static NKI_HOT void nki_conn_serve_plain(netkit_loop *loop, nki_conn *c) {
    const nki_behaviour *b = c->behaviour;
    int n = loop->driver->read(loop, c, b->read_max);
    if (NKI_UNLIKELY(n <= 0)) {
        nki_conn_read_failed(loop, c, n);
        return;
    }
    size_t len = (size_t)n;
    const void *data = loop->span.data;
    c->u.live.active_ms = loop->turn_ms;
    loop->current = c;
    loop->stage_id = c->source.id;
    loop->stage_room = b->stage_max;
    loop->span.len = len;
    loop->span_is_carry = false;
    loop->in_callback++;
    loop->calls++;
    size_t used = b->handler.on_data(loop, nki_conn_handle(c), data, len, c->user);
    loop->in_callback--;
    if (NKI_UNLIKELY(used != len || !nki_conn_is_plain(c))) {
        nki_conn_after_data(loop, c, used);
        return;
    }
    bool is_sent = loop->stage_len == 0 || nki_conn_flush_stage(loop, c);
    loop->stage_room = 0;
    loop->current = NULL;
    if (NKI_UNLIKELY(!is_sent || (c->source.ready & NKI_READABLE) != 0)) {
        if ((c->flags & NKI_C_DEAD) == 0) { /* else the tally is what is unsent */
            c->tally += (uint32_t)len;
        }
        nki_conn_after_slow(loop, c);
    }
}

/* One step of a ready conn: at most one user event. */
static NKI_HOT void nki_conn_step(netkit_loop *loop, nki_conn *c) {
    if (NKI_LIKELY(nki_conn_is_plain(c) && c->tally == 0 && (c->source.ready & NKI_READABLE) != 0 &&
                   c->behaviour->is_plain)) {
        nki_conn_serve_plain(loop, c);
    } else {
        nki_conn_step_slow(loop, c);
    }
}

/* ---- src/loop/listener.c ---- */
/* Listeners: accept until nothing waits, within a budget, and never stop or spin (I8).
 *
 * accept(2) reports errors of the connection that waited: those are passed over. When the
 * process or machine is short (EMFILE, ENFILE, ENOBUFS, ENOMEM) the backlog stays readable, so
 * trying again at once would spin: the listener pauses for 10 ms, doubling to a second, and
 * reports once. At conns_max it rests until a conn ends. */

static void nki_listener_arm(netkit_loop *loop, nki_listener *l) {
    if (loop->driver->arm != NULL && !l->is_closing) {
        bool is_waiting = l->is_deferred || l->is_full;
        loop->driver->arm(loop, &l->source, is_waiting ? 0 : NETKIT_POLL_READ);
    }
}

static void nki_listener_room(netkit_loop *loop, uint64_t listener) {
    nki_listener *l = (nki_listener *)nki_slots_find(&loop->sources, listener, NKI_KIND_LISTENER);
    if (l != NULL && l->is_full) {
        l->is_full = 0;
        nki_enqueue(loop, &l->source);
        nki_listener_arm(loop, l);
    }
}

static void nki_listener_report(netkit_loop *loop, nki_listener *l, int code, int os_code) {
    nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_ACCEPT, netkit_error_text(code), os_code);
    if (l->on_error != NULL) {
        uint64_t started = nki_call_begin(loop);
        l->on_error(loop, nki_listener_handle(l), code, os_code, l->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_LISTENER_ERROR, l, l->user);
        ev->listener = nki_listener_handle(l);
        ev->close.code = code;
        ev->close.os_code = os_code;
        ev->close.op = NETKIT_OP_ACCEPT;
        ev->close.text = netkit_error_text(code);
    }
}

/* Short of something: pause, and report the first time of a burst. */
static void nki_listener_defer(netkit_loop *loop, nki_listener *l, int code, int os_code) {
    bool is_first = l->defer_ms == 0;
    l->defer_ms = is_first ? (uint32_t)NKI_DEFER_MS_MIN
                           : NKI_MIN(l->defer_ms * 2, (uint32_t)NKI_DEFER_MS_MAX);
    uint64_t due = nki_after_ms(loop, l->defer_ms);
    /* Its place in the timers was reserved when the listener was made. */
    l->is_deferred = 1;
    nki_timers_restart(&loop->timers, &l->timer, due);
    nki_listener_arm(loop, l);
    if (is_first) {
        nki_listener_report(loop, l, code, os_code);
    }
}

static void nki_listener_timer_fired(netkit_loop *loop, nki_listener *l) {
    l->is_deferred = 0;
    nki_enqueue(loop, &l->source);
    nki_listener_arm(loop, l);
}

/* Whether the user's on_accept takes this one. */
static bool nki_listener_wants(netkit_loop *loop, nki_listener *l, const netkit_addr *peer) {
    if (l->on_accept == NULL) {
        return true;
    }
    uint64_t started = nki_call_begin(loop);
    int refused = l->on_accept(loop, nki_listener_handle(l), peer, l->user);
    nki_call_end(loop, started);
    return refused == 0;
}

/* Make a conn of an accepted socket. On failure the socket is closed. */
static int nki_listener_admit(netkit_loop *loop, nki_listener *l, uintptr_t socket, int *os_code) {
    nki_conn *c;
    *os_code = 0;
    int error = nki_conn_create(loop, l->behaviour, l->user, socket, &c);
    if (error == NETKIT_OK) {
        if (l->is_tcp) {
            c->flags |= NKI_C_TCP;
        }
        error = nki_conn_set_options(loop, c, true);
        if (error == NETKIT_OK) {
            error = nki_conn_start_timeouts(loop, c, 0);
        }
        if (error == NETKIT_OK) {
            error = loop->driver->attach(loop, &c->source);
        }
        if (error == NETKIT_OK) {
            c->flags |= NKI_C_OPEN_DUE | NKI_C_UNTOLD;
            nki_enqueue(loop, &c->source);
            return NETKIT_OK;
        }
        *os_code = loop->driver->os_code();
        nki_conn_undo(loop, c);
    }
    loop->driver->discard(loop, socket, true);
    return error;
}

static void nki_listener_accepted(netkit_loop *loop, nki_listener *l, uintptr_t socket,
                                  const netkit_addr *peer) {
    l->accepted++;
    bool is_wanted = nki_listener_wants(loop, l, peer);
    if (!is_wanted || l->is_closing || loop->is_destroying) {
        loop->driver->discard(loop, socket, true);
        l->defer_ms = 0;
        return;
    }
    int os_code;
    int error = nki_listener_admit(loop, l, socket, &os_code);
    if (error != NETKIT_OK) {
        nki_listener_defer(loop, l, error, os_code);
    } else {
        l->defer_ms = 0;
    }
}

/* Accept one. */
static void nki_listener_accept(netkit_loop *loop, nki_listener *l) {
    netkit_addr peer;
    uintptr_t socket;
    int error = loop->driver->accept(loop, l, &socket, l->on_accept == NULL ? NULL : &peer);
    if (error == NETKIT_OK) {
        nki_listener_accepted(loop, l, socket, &peer);
    } else if (error == NETKIT_E_ABORTED) {
        l->accepted++; /* counts against the budget: an endless row of these must not hold us */
    } else if (error != NETKIT_E_AGAIN) {
        nki_listener_defer(loop, l, error, loop->driver->os_code());
    }
}

static void nki_listener_closed(netkit_loop *loop, nki_listener *l);

/* One step of a ready listener: at most one connection. */
static void nki_listener_step(netkit_loop *loop, nki_listener *l) {
    if (l->is_closing) {
        if ((l->source.flags & NKI_S_GONE) != 0) {
            nki_listener_closed(loop, l);
        }
        return;
    }
    if ((l->source.ready & NKI_READABLE) == 0 || l->is_deferred) {
        return;
    }
    if (l->conns_max != 0 && l->behaviour->conns >= l->conns_max) {
        l->is_full = 1;
        nki_listener_arm(loop, l);
        return;
    }
    if (loop->sources.count >= loop->sources.count_max) {
        nki_listener_defer(loop, l, NETKIT_E_FULL, 0); /* they wait in the backlog */
        return;
    }
    if (l->accepted >= loop->desc.accept_budget) {
        l->accepted = 0;
        nki_enqueue_later(loop, &l->source);
        return;
    }
    nki_listener_accept(loop, l);
    if ((l->source.ready & NKI_READABLE) != 0 && !l->is_deferred) {
        nki_enqueue(loop, &l->source);
    } else {
        l->accepted = 0;
    }
}

/* ---- the end ---- */

static void nki_listener_dispose(netkit_loop *loop, nki_listener *l) {
    nki_timers_stop(&loop->timers, &l->timer);
    l->behaviour->listener = 0;
    nki_behaviour_drop(loop, l->behaviour);
    nki_bury(loop, &l->source);
}

static void nki_listener_closed(netkit_loop *loop, nki_listener *l) {
    if (l->on_close != NULL) {
        uint64_t started = nki_call_begin(loop);
        l->on_close(loop, nki_listener_handle(l), l->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_LISTENER_CLOSE, l, l->user);
        ev->listener = nki_listener_handle(l);
        return; /* disposed of when the next event is fetched */
    }
    nki_listener_dispose(loop, l);
}

static int nki_listener_find(netkit_loop *loop, netkit_listener listener, nki_listener **out) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    *out = (nki_listener *)nki_slots_find(&loop->sources, listener.id, NKI_KIND_LISTENER);
    return *out == NULL ? NETKIT_E_STALE : NETKIT_OK;
}

/* Remove the file, while the socket is still bound to it: nobody can have its inode. */
static void nki_listener_unlink(netkit_loop *loop, nki_listener_file *f) {
    if (f == NULL) {
        return;
    }
    int error = NETKIT_OK;
    if (f->process == loop->driver->process(loop)) {
        error = loop->driver->unlink(loop, &f->file);
    }
    if (error != NETKIT_OK && error != NETKIT_E_NOTFOUND && error != NETKIT_E_STALE) {
        nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_OS_ERROR,
                "the file of a unix listener could not be removed", loop->driver->os_code());
    }
    nki_free(&loop->allocator, f, sizeof *f);
}

static void nki_listener_close(netkit_loop *loop, nki_listener *l) {
    if (!l->is_closing) {
        l->is_closing = 1;
        nki_timers_stop(&loop->timers, &l->timer);
        nki_listener_unlink(loop, l->file);
        l->file = NULL;
        loop->driver->shut(loop, &l->source, false);
    }
}

NETKIT_API int netkit_listener_close(netkit_loop *loop, netkit_listener listener) {
    nki_listener *l;
    int error = nki_listener_find(loop, listener, &l);
    if (error == NETKIT_OK) {
        nki_listener_close(loop, l);
    }
    return error;
}

NETKIT_API int netkit_listener_local(netkit_loop *loop, netkit_listener listener,
                                     netkit_addr *out) {
    nki_listener *l;
    nki_no_answer(out, sizeof *out);
    int error = nki_listener_find(loop, listener, &l);
    if (error != NETKIT_OK) {
        return error;
    }
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    return l->is_closing ? NETKIT_E_CLOSED : loop->driver->local(loop, l->source.socket, out);
}

/* A listener whose descriptor is still there. */
static int nki_listener_find_socket(netkit_loop *loop, netkit_listener listener, const void *out,
                                    nki_listener **found) {
    int error = nki_listener_find(loop, listener, found);
    if (error != NETKIT_OK) {
        return error;
    }
    if ((*found)->is_closing) {
        return NETKIT_E_CLOSED;
    }
    return out == NULL ? NETKIT_E_INVALID : NETKIT_OK;
}

NETKIT_API int netkit_listener_set_option(netkit_loop *loop, netkit_listener listener,
                                          netkit_option option, int value) {
    nki_listener *l;
    int error = nki_listener_find_socket(loop, listener, &value, &l);
    if (error == NETKIT_OK && option == NETKIT_OPT_BLOCKING) {
        return NETKIT_E_INVALID;
    }
    return error != NETKIT_OK ? error
                              : loop->driver->set_option(loop, l->source.socket, option, value);
}

NETKIT_API int netkit_listener_get_option(netkit_loop *loop, netkit_listener listener,
                                          netkit_option option, int *value) {
    nki_listener *l;
    nki_no_answer(value, sizeof *value);
    int error = nki_listener_find_socket(loop, listener, value, &l);
    return error != NETKIT_OK ? error
                              : loop->driver->get_option(loop, l->source.socket, option, value);
}

NETKIT_API int netkit_listener_set_option_text(netkit_loop *loop, netkit_listener listener,
                                               netkit_option option, const char *value) {
    nki_listener *l;
    int error = nki_listener_find_socket(loop, listener, value, &l);
    return error != NETKIT_OK ? error
                              : loop->driver->set_text(loop, l->source.socket, option, value);
}

NETKIT_API int netkit_listener_get_option_text(netkit_loop *loop, netkit_listener listener,
                                               netkit_option option, char *text, size_t size) {
    nki_listener *l;
    if (text != NULL && size != 0) {
        text[0] = 0;
    }
    int error = nki_listener_find_socket(loop, listener, size == 0 ? NULL : text, &l);
    return error != NETKIT_OK ? error
                              : loop->driver->get_text(loop, l->source.socket, option, text, size);
}

NETKIT_API int netkit_listener_set_referenced(netkit_loop *loop, netkit_listener listener,
                                              bool referenced) {
    nki_listener *l;
    int error = nki_listener_find(loop, listener, &l);
    return error != NETKIT_OK ? error : nki_set_referenced(loop, &l->source, referenced);
}

/* ---- the beginning ---- */

/* The address a desc names, by text or by value. */
static int nki_desc_addr(const char *text, const netkit_addr *addr, netkit_addr *out) {
    if ((text == NULL) == (addr == NULL)) {
        return NETKIT_E_INVALID;
    }
    if (text != NULL) {
        return netkit_addr_parse(out, text, NULL);
    }
    *out = *addr;
    return NETKIT_OK;
}

/* A listening socket as the desc says, or the one it brings. */
static int nki_listener_socket(netkit_loop *loop, const netkit_listen_desc *desc,
                               const nki_behaviour *b, uintptr_t *socket, netkit_unix_file *file) {
    memset(file, 0, sizeof *file);
    if (desc->socket.value != 0) {
        *socket = netkit_socket_native(desc->socket);
        bool is_alone = desc->address == NULL && desc->addr == NULL;
        return is_alone ? loop->driver->set_option(loop, *socket, NETKIT_OPT_BLOCKING, 0)
                        : NETKIT_E_INVALID;
    }
    netkit_addr addr;
    int error = nki_desc_addr(desc->address, desc->addr, &addr);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_listen_how how;
    how.addr = &addr;
    how.backlog = desc->backlog;
    how.flags = (desc->reuse_port ? NETKIT_SOCKET_REUSE_PORT : 0) |
                (desc->v6only ? NETKIT_SOCKET_V6ONLY : 0) |
                (desc->exclusive ? NETKIT_SOCKET_NO_REUSE : 0) |
                (desc->unix_replace ? NETKIT_SOCKET_REPLACE : 0);
    how.mode = desc->unix_mode;
    how.options = &b->options;
    return loop->driver->listen(loop, &how, socket, file);
}

static bool nki_is_tcp(netkit_loop *loop, uintptr_t socket) {
    netkit_addr addr;
    return loop->driver->local(loop, socket, &addr) == NETKIT_OK &&
           (addr.family == NETKIT_AF_IPV4 || addr.family == NETKIT_AF_IPV6);
}

static int nki_listener_create(netkit_loop *loop, const netkit_listen_desc *desc, nki_behaviour *b,
                               uintptr_t socket, nki_listener **out) {
    void *object;
    int error = nki_source_take(loop, NKI_KIND_LISTENER, socket, &object);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_listener *l = (nki_listener *)object;
    l->behaviour = b;
    l->user = desc->user;
    l->on_accept = desc->on_accept;
    l->on_error = desc->on_error;
    l->on_close = desc->on_close;
    l->conns_max = desc->conns_max;
    l->timer.kind = NKI_KIND_LISTENER;
    l->is_tcp = nki_is_tcp(loop, socket);
    if (l->is_tcp && !desc->conn.no_nodelay) {
        /* Accepted sockets inherit it where accept does not set it (Linux, BSD). */
        error = nki_option_wanted(loop, socket, NETKIT_OPT_NODELAY, 1);
    }
    if (error == NETKIT_OK) {
        error = nki_timers_start(&loop->timers, &l->timer, NKI_NEVER);
    }
    if (error == NETKIT_OK) {
        error = loop->driver->attach(loop, &l->source);
    }
    if (error != NETKIT_OK) {
        nki_timers_stop(&loop->timers, &l->timer);
        nki_source_undo(loop, &l->source);
        return error;
    }
    b->listener = l->source.id;
    *out = l;
    return NETKIT_OK;
}

static int nki_listener_file_create(netkit_loop *loop, const netkit_unix_file *file,
                                    nki_listener_file **out) {
    *out = (nki_listener_file *)nki_alloc_zero(&loop->allocator, sizeof **out);
    if (*out == NULL) {
        return NETKIT_E_NOMEM;
    }
    (*out)->file = *file;
    (*out)->process = loop->driver->process(loop);
    return NETKIT_OK;
}

NETKIT_API int netkit_listen(netkit_loop *loop, const netkit_listen_desc *desc,
                             netkit_listener *out) {
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (desc == NULL || desc->backlog < 0 || desc->unix_mode > 0777) {
        return NETKIT_E_INVALID;
    }
    nki_behaviour *b;
    uintptr_t socket;
    netkit_unix_file file;
    error = nki_behaviour_create(loop, &desc->handler, &desc->conn, &b);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_listener_socket(loop, desc, b, &socket, &file);
    if (error == NETKIT_OK) {
        nki_listener *l = NULL;
        nki_listener_file *kept = NULL;
        if (file.inode != 0 && !desc->unix_keep) {
            error = nki_listener_file_create(loop, &file, &kept);
        }
        if (error == NETKIT_OK) {
            error = nki_listener_create(loop, desc, b, socket, &l);
        }
        if (l != NULL) {
            l->file = kept;
            if (out != NULL) {
                *out = nki_listener_handle(l);
            }
            nki_listener_arm(loop, l);
            return NETKIT_OK;
        }
        nki_free(&loop->allocator, kept, sizeof *kept);
        (void)loop->driver->unlink(loop, &file);
        if (desc->socket.value == 0) {
            loop->driver->discard(loop, socket, false);
        }
    }
    nki_behaviour_drop(loop, b);
    return error;
}

/* ---- src/loop/fds.c ---- */
/* Descriptors over unix conns.
 *
 * Out: duplicates, in the send queue as a lent chunk of ours that owns them and the first of the
 * bytes they go with. In: a queue of its own beside the carry, since the system tells no more than
 * that they come with, or before, the first byte they were sent with. Each descriptor has one
 * owner at any time: the batch, the queue, or the user. */

typedef struct nki_fds {
    size_t begin; /* the oldest */
    size_t end;
    size_t capacity;
} nki_fds;

enum {
    NKI_BATCH_BYTES =
        512 /* of a message are kept with its descriptors, the rest is copied as ever */
};

/* ---- in ---- */

static uintptr_t *nki_fds_at(nki_fds *fds) {
    return (uintptr_t *)(void *)(fds + 1);
}

static size_t nki_fds_size(size_t capacity) {
    return sizeof(nki_fds) + capacity * sizeof(uintptr_t);
}

static void nki_fds_forget(netkit_loop *loop, nki_conn *c) {
    nki_fds *fds = c->fds;
    if (fds != NULL) {
        c->fds = NULL;
        while (fds->begin != fds->end) {
            loop->driver->discard(loop, nki_fds_at(fds)[fds->begin++], false);
        }
        nki_free(&loop->allocator, fds, nki_fds_size(fds->capacity));
    }
}

/* Append. On failure nothing is taken. */
static int nki_fds_push(netkit_loop *loop, nki_conn *c, const uintptr_t *from, size_t count) {
    nki_fds *old = c->fds;
    size_t had = old == NULL ? 0 : old->end - old->begin;
    if (had + count > c->behaviour->options.fds_max) {
        return NETKIT_E_TOOBIG;
    }
    if (old == NULL || old->capacity - old->end < count) {
        size_t capacity = NKI_MAX((had + count) * 2, (size_t)8);
        nki_fds *fds = (nki_fds *)nki_alloc(&loop->allocator, nki_fds_size(capacity));
        if (fds == NULL) {
            return NETKIT_E_NOMEM;
        }
        fds->begin = 0;
        fds->end = had;
        fds->capacity = capacity;
        if (had != 0) {
            memcpy(nki_fds_at(fds), nki_fds_at(old) + old->begin, had * sizeof *from);
        }
        if (old != NULL) {
            nki_free(&loop->allocator, old, nki_fds_size(old->capacity));
        }
        c->fds = fds;
    }
    memcpy(nki_fds_at(c->fds) + c->fds->end, from, count * sizeof *from);
    c->fds->end += count;
    return NETKIT_OK;
}

static void nki_fds_fail(netkit_loop *loop, nki_conn *c, int error) {
    int why = error == NETKIT_E_TOOBIG      ? NKI_WHY_FDS_MAX
              : error == NETKIT_E_TRUNCATED ? NKI_WHY_FDS_LOST
                                            : NKI_WHY_NOMEM_RECV;
    nki_conn_fail(loop, c, NETKIT_OP_READ, error, why, 0, true);
}

/* Read bytes and descriptors. As the driver's read, and 0: that was the end of the conn. */
static int nki_conn_read_fds(netkit_loop *loop, nki_conn *c, size_t max) {
    uintptr_t fds[NETKIT_FDS_MAX];
    size_t count = 0;
    int n = loop->driver->read_fds(loop, c, max, fds, &count);
    if (n == NETKIT_E_TRUNCATED) {
        nki_fds_fail(loop, c, n);
        return 0;
    }
    int error = count == 0 ? (int)NETKIT_OK : nki_fds_push(loop, c, fds, count);
    if (error != NETKIT_OK) {
        while (count > 0) {
            loop->driver->discard(loop, fds[--count], false);
        }
        nki_fds_fail(loop, c, error);
        return 0;
    }
    return n;
}

/* ---- out ---- */

/* Sent, or never to be sent. */
static void nki_batch_done(netkit_loop *loop, int status, void *user) {
    nki_batch *b = (nki_batch *)user;
    NKI_UNUSED(status);
    while (b->count > 0) {
        loop->driver->discard(loop, b->fds[--b->count], false);
    }
    nki_free(&loop->allocator, b, b->size);
}

/* Duplicates, and a copy of the bytes behind them. */
static int nki_batch_create(netkit_loop *loop, const void *data, size_t len, const uintptr_t *fds,
                            size_t count, nki_batch **out) {
    size_t size = sizeof(nki_batch) + count * sizeof(uintptr_t) + len;
    nki_batch *b = (nki_batch *)nki_alloc(&loop->allocator, size);
    *out = NULL;
    if (b == NULL) {
        return NETKIT_E_NOMEM;
    }
    b->count = 0;
    b->len = len;
    b->size = size;
    for (size_t i = 0; i < count; i++) {
        int error = loop->driver->dup(loop, fds[i], &b->fds[i]);
        if (error != NETKIT_OK) {
            nki_batch_done(loop, error, b);
            return error;
        }
        b->count++;
    }
    memcpy(b->fds + count, data, len);
    *out = b;
    return NETKIT_OK;
}

/* ---- src/loop/conn_api.c ---- */
/* Conns, as users call them: find the conn, check its state, do the least that is right now, and
 * leave the rest to the turn, as nothing may be called back from inside a call. */

static NKI_OUTLINE int nki_conn_find(netkit_loop *loop, netkit_conn conn, nki_conn **out) {
    int error = nki_enter(loop);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    *out = (nki_conn *)nki_slots_find(&loop->sources, conn.id, NKI_KIND_CONN);
    return NKI_LIKELY(*out != NULL) ? NETKIT_OK : NETKIT_E_STALE;
}

/* The same for calls that a closing conn refuses. */
static int nki_conn_find_open(netkit_loop *loop, netkit_conn conn, nki_conn **out) {
    int error = nki_conn_find(loop, conn, out);
    if (NKI_LIKELY(error == NETKIT_OK) &&
        NKI_UNLIKELY(((*out)->flags & (NKI_C_CLOSING | NKI_C_DEAD)) != 0)) {
        return NETKIT_E_CLOSED;
    }
    return error;
}

/* ---- sending ---- */

static NKI_OUTLINE int nki_send_check(netkit_loop *loop, netkit_conn conn, nki_conn **out) {
    int error = nki_conn_find(loop, conn, out);
    if (NKI_LIKELY(error == NETKIT_OK) && NKI_UNLIKELY(((*out)->flags & NKI_C_ENDING) != 0)) {
        return NETKIT_E_CLOSED;
    }
    return error;
}

static NKI_COLD int nki_send_refuse(netkit_loop *loop, nki_conn *c, size_t len) {
    if (len > c->behaviour->options.send_max) {
        return NETKIT_E_TOOBIG;
    }
    c->u.live.refused = (uint32_t)len;
    c->flags = (c->flags & ~(uint32_t)NKI_C_DRAIN_DUE) | NKI_C_REFUSED;
    if (loop->desc.debug && (c->flags & NKI_C_DUPLEX) != 0 && nki_is_in_data(loop, c)) {
        loop->ignored = c;
    }
    return NETKIT_E_FULL;
}

static NKI_COLD int nki_send_nomem(netkit_loop *loop, nki_conn *c) {
    nki_conn_fail(loop, c, NETKIT_OP_WRITE, NETKIT_E_NOMEM, NKI_WHY_NOMEM_SEND, 0, true);
    return NETKIT_E_NOMEM;
}

/* After bytes were queued: now at 64 KiB, else when the callback returns or the turn ends. */
static int nki_send_queued(netkit_loop *loop, nki_conn *c) {
    if (NKI_LIKELY(loop->current != c)) {
        nki_conn_mark_dirty(loop, c);
    }
    if (NKI_UNLIKELY(c->unflushed >= NKI_FLUSH_AT)) {
        nki_conn_flush(loop, c);
    }
    return NETKIT_OK;
}

/* A large send on an empty queue goes to the system from the caller's memory. Returns the count
 * that went, or an error that has ended the conn. */
static int nki_send_direct(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    if (nki_conn_has_output(loop, c) || (c->flags & (NKI_C_HELD | NKI_C_CORKED)) != 0) {
        return 0;
    }
    int n = loop->driver->send(loop, c, data, len);
    if (n == NETKIT_E_AGAIN) {
        c->flags |= NKI_C_STALLED;
        return 0;
    }
    if (n < 0) {
        nki_conn_fail(loop, c, NETKIT_OP_WRITE, n, NKI_WHY_WRITE, loop->driver->os_code(), false);
    }
    return n;
}

static NKI_OUTLINE int nki_conn_send_slow(netkit_loop *loop, netkit_conn conn, const void *data,
                                          size_t len) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    if (NKI_UNLIKELY(data == NULL || len == 0)) {
        return len == 0 ? NETKIT_OK : NETKIT_E_INVALID;
    }
    if (NKI_UNLIKELY(len > nki_out_room(loop, c))) {
        return nki_send_refuse(loop, c, len);
    }
    if (len >= NKI_DIRECT_MIN) {
        int n = nki_send_direct(loop, c, data, len);
        if (n < 0) {
            return n;
        }
        c->u.live.active_ms = n > 0 ? loop->turn_ms : c->u.live.active_ms;
        if ((size_t)n == len) {
            return NETKIT_OK;
        }
        data = (const char *)data + n;
        len -= (size_t)n;
    }
    if (NKI_UNLIKELY(nki_out_copy(loop, c, data, len) != NETKIT_OK)) {
        return nki_send_nomem(loop, c);
    }
    return nki_send_queued(loop, c);
}

NETKIT_API int netkit_conn_send(netkit_loop *loop, netkit_conn conn, const void *data, size_t len) {
    int error = nki_enter_now(loop);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    /* What nearly every send is: a small answer in the conn's own callback. */
    if (NKI_LIKELY(conn.id == loop->stage_id && len < NKI_DIRECT_MIN &&
                   len - 1 < loop->stage_room && data != NULL)) {
        nki_stage_copy(loop, data, len);
        return NETKIT_OK;
    }
    return nki_conn_send_slow(loop, conn, data, len);
}

NETKIT_API int netkit_conn_sendv(netkit_loop *loop, netkit_conn conn, const netkit_span *spans,
                                 size_t count) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (spans == NULL && count != 0) {
        return NETKIT_E_INVALID;
    }
    uint32_t send_max = c->behaviour->options.send_max;
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        if (spans[i].data == NULL && spans[i].len != 0) {
            return NETKIT_E_INVALID;
        }
        if (spans[i].len > send_max || sum + spans[i].len > send_max) {
            return NETKIT_E_TOOBIG;
        }
        sum += spans[i].len;
    }
    if (sum > nki_out_room(loop, c)) {
        return nki_send_refuse(loop, c, sum);
    }
    for (size_t i = 0; i < count; i++) {
        if (spans[i].len != 0 && nki_out_copy(loop, c, spans[i].data, spans[i].len) != NETKIT_OK) {
            return nki_send_nomem(loop, c);
        }
    }
    return nki_send_queued(loop, c);
}

NETKIT_API int netkit_conn_send_borrowed(netkit_loop *loop, netkit_conn conn, const void *data,
                                         size_t len, netkit_release_fn release, void *user) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (data == NULL && len != 0) {
        return NETKIT_E_INVALID;
    }
    if (c->borrowed >= c->behaviour->options.chunks_max) {
        return nki_send_refuse(loop, c, 1);
    }
    /* Failing to note the loan takes nothing from the stream: the memory is the caller's still. */
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    error = nki_out_lend(loop, c, data, len, release, user);
    return error != NETKIT_OK ? error : nki_send_queued(loop, c);
}

NETKIT_API int netkit_conn_send_file(netkit_loop *loop, netkit_conn conn, uintptr_t file,
                                     uint64_t offset, uint64_t len, netkit_release_fn release,
                                     void *user) {
    nki_conn *c;
    uintptr_t own;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (c->borrowed >= c->behaviour->options.chunks_max) {
        return nki_send_refuse(loop, c, 1);
    }
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    error = loop->driver->file_open(file, offset, &len, &own);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_chunk *chunk = len > SIZE_MAX / 2 ? NULL : nki_chunk_lent(loop, (size_t)len, release, user);
    if (chunk == NULL) {
        loop->driver->file_close(own);
        return len > SIZE_MAX / 2 ? NETKIT_E_TOOBIG : NETKIT_E_NOMEM;
    }
    chunk->file = own + 1;
    chunk->offset = offset;
    nki_out_lend_chunk(c, chunk);
    return nki_send_queued(loop, c);
}

/* ---- writing in place ---- */

NKI_STATIC_ASSERT(reserve_max, NETKIT_RESERVE_MAX <= NKI_CHUNK_SIZE - (int)sizeof(nki_chunk));

/* Where `len` bytes in one piece would go: into the stage, behind the last chunk, or into a chunk
 * of the reserve. NULL when there is no memory. */
static unsigned char *nki_out_place(netkit_loop *loop, const nki_conn *c, size_t len,
                                    size_t *room) {
    if (loop->stage_id == c->source.id && len <= loop->stage_room) {
        *room = loop->stage_room;
        return loop->stage + loop->stage_len;
    }
    nki_chunk *last = nki_out_open(c);
    if (last != NULL && len <= last->capacity - last->end && nki_staged(loop, c) == 0) {
        *room = last->capacity - last->end;
        return (unsigned char *)(last + 1) + last->end;
    }
    if (loop->chunks == NULL && nki_chunk_stock(loop, 1) != NETKIT_OK) {
        return NULL;
    }
    *room = NKI_CHUNK_SIZE - sizeof(nki_chunk);
    return (unsigned char *)(loop->chunks + 1);
}

NETKIT_API int netkit_conn_reserve(netkit_loop *loop, netkit_conn conn, size_t len, void **out,
                                   size_t *room) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    nki_no_answer(room, sizeof *room);
    int error = nki_send_check(loop, conn, &c);
    if (error == NETKIT_OK && (out == NULL || room == NULL)) {
        error = NETKIT_E_INVALID;
    }
    if (error != NETKIT_OK) {
        return error;
    }
    len = NKI_MAX(len, (size_t)1);
    if (len > NETKIT_RESERVE_MAX) {
        return NETKIT_E_TOOBIG;
    }
    if (len > nki_out_room(loop, c)) {
        return nki_send_refuse(loop, c, len);
    }
    size_t piece;
    loop->reserved = nki_out_place(loop, c, len, &piece);
    loop->reserved_id = conn.id;
    if (loop->reserved == NULL) {
        return NETKIT_E_NOMEM;
    }
    *out = loop->reserved;
    *room = NKI_MIN(piece, nki_out_room(loop, c));
    return NETKIT_OK;
}

/* How much fits at a place that was reserved; 0 when it is not free any more. */
static size_t nki_out_place_room(const netkit_loop *loop, const nki_conn *c,
                                 const unsigned char *at) {
    if (loop->stage_id == c->source.id && at == loop->stage + loop->stage_len) {
        return loop->stage_room;
    }
    const nki_chunk *last = nki_out_open(c);
    if (last != NULL && at == (const unsigned char *)(last + 1) + last->end) {
        return nki_staged(loop, c) == 0 ? last->capacity - last->end : 0;
    }
    bool is_spare = loop->chunks != NULL && at == (const unsigned char *)(loop->chunks + 1);
    return is_spare ? NKI_CHUNK_SIZE - sizeof(nki_chunk) : 0;
}

/* What was written to the reserve becomes part of the queue. NETKIT_E_NOMEM: the conn is doomed. */
static int nki_out_commit(netkit_loop *loop, nki_conn *c, const unsigned char *at, size_t len) {
    if (at == loop->stage + loop->stage_len) {
        loop->stage_len += len;
        loop->stage_room -= len;
        return NETKIT_OK;
    }
    nki_chunk *last = nki_out_open(c);
    if (last == NULL || at != (unsigned char *)(last + 1) + last->end) {
        last = nki_chunk_take(loop);
        if (nki_stage_spill(loop, c) != NETKIT_OK) {
            nki_chunk_give(loop, last);
            return NETKIT_E_NOMEM;
        }
        nki_out_append(c, last);
    }
    last->end += len;
    c->queued += (uint32_t)len;
    nki_out_count(c, len);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_commit(netkit_loop *loop, netkit_conn conn, size_t len) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    const unsigned char *at = loop->reserved; /* now that the thread is known to be the loop's */
    if (at == NULL || loop->reserved_id != conn.id || len > nki_out_room(loop, c)) {
        return NETKIT_E_INVALID;
    }
    loop->reserved = NULL;
    if (len == 0) {
        return NETKIT_OK;
    }
    if (len > nki_out_place_room(loop, c, at)) {
        return NETKIT_E_INVALID;
    }
    if (nki_out_commit(loop, c, at, len) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    return nki_send_queued(loop, c);
}

/* ---- corking ---- */

NETKIT_API int netkit_conn_cork(netkit_loop *loop, netkit_conn conn, bool corked) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (!corked) {
        c->flags &= ~(uint32_t)(NKI_C_CORKED | NKI_C_FLUSHING);
        nki_conn_mark_dirty(loop, c);
        return NETKIT_OK;
    }
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    c->flags |= NKI_C_CORKED;
    return NETKIT_OK;
}

/* What stands between a caller's descriptors and the queue, in the order of the codes. */
static int nki_send_fds_check(netkit_loop *loop, nki_conn *c, size_t len, size_t count) {
    if ((c->flags & NKI_C_TCP) != 0) {
        return NETKIT_E_NOSYS;
    }
    if (count > NETKIT_FDS_MAX) {
        return NETKIT_E_TOOBIG;
    }
    if (len > nki_out_room(loop, c)) {
        return nki_send_refuse(loop, c, len);
    }
    return c->borrowed >= c->behaviour->options.chunks_max ? nki_send_refuse(loop, c, len)
                                                           : (int)NETKIT_OK;
}

NETKIT_API int netkit_conn_send_fds(netkit_loop *loop, netkit_conn conn, const void *data,
                                    size_t len, const uintptr_t *fds, size_t count) {
    nki_conn *c;
    nki_batch *b;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (data == NULL || len == 0 || fds == NULL || count == 0) {
        return NETKIT_E_INVALID;
    }
    error = nki_send_fds_check(loop, c, len, count);
    size_t first = NKI_MIN(len, (size_t)NKI_BATCH_BYTES);
    if (error == NETKIT_OK) {
        error = nki_batch_create(loop, data, first, fds, count, &b);
    }
    if (error != NETKIT_OK) {
        return error; /* nothing was taken */
    }
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        nki_batch_done(loop, NETKIT_E_NOMEM, b);
        return nki_send_nomem(loop, c);
    }
    error = nki_out_lend(loop, c, b->fds + count, first, nki_batch_done, b);
    if (error != NETKIT_OK) {
        nki_batch_done(loop, error, b);
        return error;
    }
    if (len > first &&
        nki_out_copy(loop, c, (const char *)data + first, len - first) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    return nki_send_queued(loop, c);
}

NETKIT_API int netkit_conn_want_drain(netkit_loop *loop, netkit_conn conn, size_t room) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (room > c->behaviour->options.send_max) {
        return NETKIT_E_TOOBIG;
    }
    c->u.live.refused = (uint32_t)room;
    c->flags |= NKI_C_REFUSED;
    nki_conn_mark_dirty(loop, c);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_flush(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error == NETKIT_OK) {
        nki_conn_mark_dirty(loop, c); /* first: a conn that dies in the flush is in one list then */
        if ((c->flags & NKI_C_STALLED) != 0) {
            loop->reserved = NULL;
            nki_commit(loop); /* what is on its way comes before what is behind it */
        }
        loop->is_flushing = 1;
        nki_conn_flush(loop, c);
        loop->is_flushing = 0;
        nki_commit(loop);
    }
    return error;
}

/* ---- flow ---- */

NETKIT_API int netkit_conn_pause(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error == NETKIT_OK) {
        c->flags = (c->flags | NKI_C_PAUSED) & ~(uint32_t)NKI_C_REOFFER;
        nki_conn_arm(loop, c);
    }
    return error;
}

/* Offer what is unused again even when nothing comes behind it. From inside on_data that is done
 * in the next turn: a handler that always asks for it must not hold us. */
static void nki_conn_reoffer(netkit_loop *loop, nki_conn *c) {
    bool is_in_data = nki_is_in_data(loop, c);
    if (c->carry != NULL || is_in_data) {
        c->flags |= NKI_C_REOFFER;
    }
    if (is_in_data) {
        nki_enqueue_later(loop, &c->source);
    } else {
        nki_enqueue(loop, &c->source);
    }
}

NETKIT_API int netkit_conn_resume(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    c->flags &= ~(uint32_t)NKI_C_PAUSED;
    nki_conn_reoffer(loop, c);
    nki_conn_arm(loop, c);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_shutdown(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error == NETKIT_OK) {
        nki_stage_close(loop, c);
        c->flags = (c->flags | NKI_C_SHUT) & ~(uint32_t)NKI_C_CORKED;
        nki_conn_mark_dirty(loop, c);
    }
    return error;
}

NETKIT_API int netkit_conn_close(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find(loop, conn, &c);
    if (error == NETKIT_OK && (c->flags & (NKI_C_CLOSING | NKI_C_DEAD)) == 0) {
        nki_refresh_time(loop); /* the deadline counts from now, not from the last turn */
        nki_conn_begin_close(loop, c);
        if ((c->flags & NKI_C_DEAD) == 0) {
            nki_conn_mark_dirty(loop, c);
        }
    }
    return error;
}

NETKIT_API int netkit_conn_abort(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find(loop, conn, &c);
    if (error == NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_ABORTED, NKI_WHY_ABORTED, 0, true);
    }
    return error;
}

/* ---- looking ---- */

NETKIT_API int netkit_conn_queued(netkit_loop *loop, netkit_conn conn, size_t *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find(loop, conn, &c);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    *out = nki_out_bytes(loop, c);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_unread(netkit_loop *loop, netkit_conn conn, size_t *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find(loop, conn, &c);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    *out = nki_carry_len(c);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_phase(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if ((c->flags & (NKI_C_CLOSING | NKI_C_DEAD)) != 0) {
        return NETKIT_PHASE_CLOSING;
    }
    return (c->flags & NKI_C_OPENED) != 0 ? NETKIT_PHASE_OPEN : NETKIT_PHASE_CONNECTING;
}

/* A conn whose descriptor is still there. */
static int nki_conn_find_socket(netkit_loop *loop, netkit_conn conn, const void *out,
                                nki_conn **found) {
    int error = nki_conn_find(loop, conn, found);
    if (error != NETKIT_OK) {
        return error;
    }
    if (((*found)->flags & NKI_C_DEAD) != 0) {
        return NETKIT_E_CLOSED;
    }
    return out == NULL ? NETKIT_E_INVALID : NETKIT_OK;
}

NETKIT_API int netkit_conn_local(netkit_loop *loop, netkit_conn conn, netkit_addr *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find_socket(loop, conn, out, &c);
    return error != NETKIT_OK ? error : loop->driver->local(loop, c->source.socket, out);
}

NETKIT_API int netkit_conn_remote(netkit_loop *loop, netkit_conn conn, netkit_addr *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find_socket(loop, conn, out, &c);
    return error != NETKIT_OK ? error : loop->driver->remote(loop, c->source.socket, out);
}

NETKIT_API int netkit_conn_native(netkit_loop *loop, netkit_conn conn, uintptr_t *native) {
    nki_conn *c;
    nki_no_native(native);
    int error = nki_conn_find_socket(loop, conn, native, &c);
    if (error == NETKIT_OK) {
        *native = c->source.socket;
    }
    return error;
}

NETKIT_API int netkit_conn_set_option(netkit_loop *loop, netkit_conn conn, netkit_option option,
                                      int value) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    bool would_wait = option == NETKIT_OPT_BLOCKING || (option == NETKIT_OPT_LINGER && value > 0);
    if (error == NETKIT_OK && would_wait) {
        return NETKIT_E_INVALID;
    }
    return error != NETKIT_OK ? error
                              : loop->driver->set_option(loop, c->source.socket, option, value);
}

NETKIT_API int netkit_conn_get_option(netkit_loop *loop, netkit_conn conn, netkit_option option,
                                      int *value) {
    nki_conn *c;
    nki_no_answer(value, sizeof *value);
    int error = nki_conn_find_socket(loop, conn, value, &c);
    return error != NETKIT_OK ? error
                              : loop->driver->get_option(loop, c->source.socket, option, value);
}

NETKIT_API int netkit_conn_set_option_text(netkit_loop *loop, netkit_conn conn,
                                           netkit_option option, const char *value) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK || value == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    return loop->driver->set_text(loop, c->source.socket, option, value);
}

NETKIT_API int netkit_conn_get_option_text(netkit_loop *loop, netkit_conn conn,
                                           netkit_option option, char *text, size_t size) {
    nki_conn *c;
    if (text != NULL && size != 0) {
        text[0] = 0;
    }
    int error = nki_conn_find_socket(loop, conn, size == 0 ? NULL : text, &c);
    return error != NETKIT_OK ? error
                              : loop->driver->get_text(loop, c->source.socket, option, text, size);
}

NETKIT_API int netkit_conn_credentials(netkit_loop *loop, netkit_conn conn,
                                       netkit_credentials *out) {
    nki_conn *c;
    if (out != NULL) {
        out->pid = out->uid = out->gid = -1;
    }
    int error = nki_conn_find_socket(loop, conn, out, &c);
    return error != NETKIT_OK ? error : loop->driver->credentials(loop, c->source.socket, out);
}

NETKIT_API int netkit_conn_take_fd(netkit_loop *loop, netkit_conn conn, uintptr_t *out) {
    nki_conn *c;
    if (out != NULL) {
        *out = UINTPTR_MAX;
    }
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    if (c->fds == NULL) {
        return NETKIT_E_AGAIN;
    }
    *out = nki_fds_at(c->fds)[c->fds->begin++];
    if (c->fds->begin == c->fds->end) {
        nki_fds_forget(loop, c);
    }
    return NETKIT_OK;
}

NETKIT_API void *netkit_conn_user(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    return nki_conn_find(loop, conn, &c) == NETKIT_OK ? c->user : NULL;
}

NETKIT_API int netkit_conn_set_user(netkit_loop *loop, netkit_conn conn, void *user) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error == NETKIT_OK) {
        c->user = user;
    }
    return error;
}

NETKIT_API void *netkit_conn_ext(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    return nki_conn_find(loop, conn, &c) == NETKIT_OK ? c->ext : NULL;
}

/* ---- changing ---- */

NETKIT_API int netkit_conn_set_handler(netkit_loop *loop, netkit_conn conn,
                                       const netkit_handler *handler, void *user) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK || handler == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    nki_behaviour *b = nki_behaviour_derive(loop, c->behaviour, handler);
    if (b == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_behaviour_drop(loop, c->behaviour);
    c->behaviour = b;
    c->user = user;
    if ((c->flags & NKI_C_PAUSED) == 0) {
        nki_conn_reoffer(loop, c); /* what the old table leaves may be all that comes for now */
    }
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_set_idle_timeout(netkit_loop *loop, netkit_conn conn,
                                            uint32_t timeout_ms) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK || timeout_ms > INT32_MAX) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    if (nki_conn_cold(loop, c) == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_refresh_time(loop);
    c->u.live.active_ms = loop->turn_ms;
    c->cold->idle_ms = timeout_ms;
    return nki_conn_set_timer(loop, c);
}

NETKIT_API int netkit_conn_set_deadline(netkit_loop *loop, netkit_conn conn, uint32_t deadline_ms) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (nki_conn_cold(loop, c) == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_refresh_time(loop);
    c->cold->deadline_ns = deadline_ms == 0 ? NKI_NEVER : nki_after_ms(loop, deadline_ms);
    return nki_conn_set_timer(loop, c);
}

NETKIT_API int netkit_conn_set_referenced(netkit_loop *loop, netkit_conn conn, bool referenced) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    return error != NETKIT_OK ? error : nki_set_referenced(loop, &c->source, referenced);
}

NETKIT_API int netkit_conn_keep(netkit_loop *loop, netkit_conn conn, netkit_buf *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find(loop, conn, &c);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    return nki_is_in_data(loop, c) ? nki_keep(loop, out) : NETKIT_E_BUSY;
}

NETKIT_API int netkit_close_describe(const netkit_close_info *info, char *text, size_t size) {
    static const char *const ops[] = {"ending",    "opening", "connecting", "accepting",
                                      "receiving", "sending", "closing",    "a timer"};
    static const char *const phases[] = {"", "connecting", "open", "closing"};
    if (info == NULL || (text == NULL && size != 0)) {
        return NETKIT_E_INVALID;
    }
    const char *op = (unsigned)info->op < NKI_COUNT(ops) ? ops[info->op] : ops[0];
    const char *phase = (unsigned)info->phase < NKI_COUNT(phases) ? phases[info->phase] : "";
    return snprintf(text, size, "%s: %s (%s, system code %d) by %s while %s, %lu bytes unsent",
                    info->text == NULL ? "" : info->text, netkit_error_text(info->code),
                    netkit_error_name(info->code), info->os_code, op, phase,
                    (unsigned long)info->unsent);
}

/* ---- dialling and adopting ---- */

/* Connecting has begun, or has ended at once; on_open comes from the loop either way. */
static int nki_conn_dial(netkit_loop *loop, nki_conn *c, const netkit_connect_desc *desc,
                         const netkit_addr *to) {
    if (to->family == NETKIT_AF_IPV4 || to->family == NETKIT_AF_IPV6) {
        c->flags |= NKI_C_TCP;
    }
    int error = loop->driver->connect(loop, c, to, desc->source);
    if (error != NETKIT_OK && error != NETKIT_E_AGAIN) {
        return error;
    }
    bool is_done = error == NETKIT_OK;
    c->flags |= NKI_C_CONNECTING;
    error = nki_conn_set_options(loop, c, false);
    if (error == NETKIT_OK) {
        error = nki_conn_start_timeouts(
            loop, c, desc->timeout_ms == 0 ? loop->desc.timeouts.connect_ms : desc->timeout_ms);
    }
    if (error == NETKIT_OK) {
        error = loop->driver->attach(loop, &c->source);
    }
    if (error != NETKIT_OK) {
        loop->driver->discard(loop, c->source.socket, true);
    } else if (is_done) {
        nki_ready(loop, &c->source, NETKIT_POLL_WRITE);
    }
    return error;
}

NETKIT_API int netkit_connect(netkit_loop *loop, const netkit_connect_desc *desc,
                              netkit_conn *out) {
    netkit_addr to;
    nki_behaviour *b;
    nki_conn *c;
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error == NETKIT_OK) {
        error = desc == NULL || desc->timeout_ms > INT32_MAX
                    ? NETKIT_E_INVALID
                    : nki_desc_addr(desc->address, desc->addr, &to);
    }
    if (error == NETKIT_OK) {
        error = nki_behaviour_create(loop, &desc->handler, &desc->conn, &b);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    nki_refresh_time(loop);
    error = nki_conn_create(loop, b, desc->user, 0, &c);
    nki_behaviour_drop(loop, b); /* the conn holds it */
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_conn_dial(loop, c, desc, &to);
    if (error != NETKIT_OK) {
        nki_conn_undo(loop, c);
        return error;
    }
    nki_conn_arm(loop, c);
    if (out != NULL) {
        *out = nki_conn_handle(c);
    }
    return NETKIT_OK;
}

static int nki_conn_take_over(netkit_loop *loop, nki_conn *c) {
    bool is_tcp = false;
    int error = loop->driver->adopt(loop, c->source.socket, &is_tcp);
    if (is_tcp) {
        c->flags |= NKI_C_TCP;
    }
    if (error == NETKIT_OK) {
        error = nki_conn_set_options(loop, c, false);
    }
    if (error == NETKIT_OK) {
        error = nki_conn_start_timeouts(loop, c, 0);
    }
    return error != NETKIT_OK ? error : loop->driver->attach(loop, &c->source);
}

NETKIT_API int netkit_adopt(netkit_loop *loop, const netkit_adopt_desc *desc, netkit_conn *out) {
    nki_behaviour *b;
    nki_conn *c;
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error == NETKIT_OK) {
        error = desc == NULL || desc->socket.value == 0
                    ? NETKIT_E_INVALID
                    : nki_behaviour_create(loop, &desc->handler, &desc->conn, &b);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    nki_refresh_time(loop);
    error = nki_conn_create(loop, b, desc->user, netkit_socket_native(desc->socket), &c);
    nki_behaviour_drop(loop, b);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_conn_take_over(loop, c);
    if (error != NETKIT_OK) {
        nki_conn_undo(loop, c);
        return error;
    }
    c->flags |= NKI_C_OPEN_DUE;
    nki_enqueue(loop, &c->source);
    nki_conn_arm(loop, c);
    if (out != NULL) {
        *out = nki_conn_handle(c);
    }
    return NETKIT_OK;
}

/* ---- src/loop/frame.c ---- */
/* Sending frames: header, data and delimiter in one vectored send, so all of a frame or nothing. */

/* In the data, or across its end: behind "a\r\n" the delimiter "\r\n\r\n" would come too early. */
static bool nki_frame_has_delimiter(const netkit_framing *framing, const void *data, size_t len) {
    const char *delimiter = framing->delimiter_bytes == 0 ? "\n" : framing->delimiter;
    size_t bytes = framing->delimiter_bytes == 0 ? 1 : framing->delimiter_bytes;
    size_t tail = NKI_MIN(len, bytes - 1);
    char seam[2 * NETKIT_FRAME_DELIMITER_MAX];
    netkit_frame none;
    size_t used = 0;
    if (len > 0 && netkit_frame_next(framing, data, len, &used, &none) != 0) {
        return true;
    }
    if (tail > 0) {
        memcpy(seam, (const char *)data + len - tail, tail);
    }
    memcpy(seam + tail, delimiter, bytes);
    for (size_t i = 0; i < tail; i++) {
        if (memcmp(seam + i, delimiter, bytes) == 0) {
            return true;
        }
    }
    return false;
}

NETKIT_API int netkit_frame_send(netkit_loop *loop, netkit_conn conn, const netkit_framing *framing,
                                 const void *data, size_t len) {
    unsigned char header[NETKIT_FRAME_HEADER_MAX];
    netkit_span spans[3];
    memset(header, 0, sizeof header);
    int bytes = netkit_frame_header(framing, len, header);
    if (bytes < 0) {
        return bytes;
    }
    spans[0].data = header;
    spans[0].len = (size_t)bytes;
    spans[1].data = data;
    spans[1].len = len;
    spans[2].data = NULL;
    spans[2].len = 0;
    if (framing->kind == NETKIT_FRAME_DELIMITER) {
        if (nki_frame_has_delimiter(framing, data, len)) {
            return NETKIT_E_INVALID;
        }
        spans[2].data = framing->delimiter_bytes == 0 ? "\n" : framing->delimiter;
        spans[2].len = framing->delimiter_bytes == 0 ? 1 : framing->delimiter_bytes;
    }
    return netkit_conn_sendv(loop, conn, spans, 3);
}

/* ---- src/loop/udp_out.c ---- */
/* The send queue of a udp: datagrams in blocks, in order, and how they leave.
 *
 * What is sent is copied behind a short record of where it goes. Blocks belong to the loop and
 * come back when their datagrams have gone, so that in the steady state none is allocated and idle
 * udps own nothing. A flush gives the system up to 64 at a time. It stops when the system takes no
 * more: it says when there is room (STALLED), or does not (SHORT: buffers of the machine), and
 * then a timer tries again. A datagram that cannot be sent is told to on_error and dropped; the
 * next one goes on. An error may be another's, of one sent long ago: so it is tried again. */

static size_t nki_udp_record_size(size_t len) {
    return sizeof(nki_udp_record) + ((len + 7) & ~(size_t)7);
}

static unsigned char *nki_udp_block_bytes(nki_udp_block *b) {
    return (unsigned char *)(b + 1);
}

static nki_udp_record *nki_udp_record_at(nki_udp_block *b, uint32_t at) {
    return (nki_udp_record *)(void *)(nki_udp_block_bytes(b) + at);
}

/* ---- blocks ---- */

static void nki_udp_block_free(netkit_loop *loop, nki_udp_block *b) {
    nki_free(&loop->allocator, b, sizeof *b + NKI_UDP_BLOCK_ROOM);
}

static void nki_udp_block_give(netkit_loop *loop, nki_udp_block *b) {
    nki_dgrams *d = loop->dgrams;
    if (d->spare_count < NKI_UDP_BLOCKS_SPARE) {
        b->next = d->spare;
        d->spare = b;
        d->spare_count++;
    } else {
        d->blocks--;
        nki_udp_block_free(loop, b);
    }
}

/* Rather than more than a few blocks, what other udps have queued goes out sooner. */
static nki_udp_block *nki_udp_block_take(netkit_loop *loop) {
    nki_dgrams *d = loop->dgrams;
    if (d->spare == NULL && d->blocks >= NKI_UDP_BLOCKS_SPARE) {
        nki_udp_flush_dirty(loop);
    }
    nki_udp_block *b = d->spare;
    if (b != NULL) {
        d->spare = b->next;
        d->spare_count--;
    } else {
        b = (nki_udp_block *)nki_alloc(&loop->allocator, sizeof *b + NKI_UDP_BLOCK_ROOM);
        if (b == NULL) {
            return NULL;
        }
        d->blocks++;
    }
    b->next = NULL;
    b->begin = 0;
    b->end = 0;
    return b;
}

static nki_udp_block *nki_udp_block_for(netkit_loop *loop, nki_udp *u, size_t size) {
    nki_udp_block *b = u->out_last;
    if (b != NULL && NKI_UDP_BLOCK_ROOM - b->end >= size) {
        return b;
    }
    b = nki_udp_block_take(loop); /* may have emptied the queue */
    if (b == NULL) {
        return NULL;
    }
    *(u->out_last == NULL ? &u->out : &u->out_last->next) = b;
    u->out_last = b;
    return b;
}

/* NETKIT_OK or NETKIT_E_NOMEM. */
static int nki_udp_queue(netkit_loop *loop, nki_udp *u, const nki_route *route, const void *data,
                         size_t len, uint32_t segment) {
    size_t size = nki_udp_record_size(len);
    nki_udp_block *b = nki_udp_block_for(loop, u, size);
    if (b == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_udp_record *r = nki_udp_record_at(b, b->end);
    r->route = *route;
    r->len = (uint32_t)len;
    r->sent = 0;
    r->segment = segment;
    r->is_single = 0;
    r->tries = 0;
    if (len != 0) {
        memcpy(r + 1, data, len);
    }
    b->end += (uint32_t)size;
    u->queued += (uint32_t)len;
    u->records++;
    return NETKIT_OK;
}

/* The first datagram is done with. */
static void nki_udp_pop(netkit_loop *loop, nki_udp *u) {
    nki_udp_block *b = u->out;
    const nki_udp_record *r = nki_udp_record_at(b, b->begin);
    u->queued -= r->len;
    u->records--;
    b->begin += (uint32_t)nki_udp_record_size(r->len);
    if (b->begin == b->end) {
        u->out = b->next;
        if (u->out == NULL) {
            u->out_last = NULL;
        }
        nki_udp_block_give(loop, b);
    }
}

static void nki_udp_drop_out(netkit_loop *loop, nki_udp *u) {
    while (u->out != NULL) {
        nki_udp_block *b = u->out;
        u->out = b->next;
        nki_udp_block_give(loop, b);
    }
    u->out_last = NULL;
    u->records = 0;
}

/* Bytes that one more datagram may have. */
static size_t nki_udp_room(const nki_udp *u) {
    size_t used = (size_t)u->queued + (size_t)u->records * NKI_UDP_COST;
    return u->more->send_max > used ? u->more->send_max - used : 0;
}

/* ---- flushing ---- */

static bool nki_udp_tells_errors(const netkit_loop *loop, const nki_udp *u) {
    return u->more->handler.on_error != NULL || loop->desc.pull;
}

/* What the driver shall wait for. */
static void nki_udp_arm(netkit_loop *loop, nki_udp *u) {
    uint32_t wanted = (u->flags & NKI_D_STALLED) != 0 ? (uint32_t)NETKIT_POLL_WRITE : 0u;
    if ((u->flags & (NKI_D_PAUSED | NKI_D_STARVED)) == 0) {
        wanted |= NETKIT_POLL_READ;
    }
    if (wanted != u->more->armed && (u->flags & NKI_D_CLOSING) == 0) {
        u->more->armed = wanted;
        loop->driver->arm(loop, &u->source, wanted);
    }
}

/* Its place in the timers was reserved when the udp was made. */
static void nki_udp_set_timer(netkit_loop *loop, nki_udp *u) {
    const nki_udp_more *m = u->more;
    nki_timers_restart(&loop->timers, &u->more->timer, NKI_MIN(m->send_due_ns, m->recv_due_ns));
}

/* The longest part of a datagram that goes in one message. */
static size_t nki_udp_piece(const nki_udp *u, const nki_udp_record *r, size_t left) {
    if (r->segment == 0 || left <= r->segment) {
        return left;
    }
    if (r->is_single || (u->flags & NKI_D_GSO) == 0) {
        return r->segment;
    }
    size_t most = NKI_MIN((size_t)NKI_DGRAM_SEGMENTS, NETKIT_DATAGRAM_MAX / r->segment);
    return NKI_MIN(left, most * r->segment);
}

/* Add the messages of one datagram. */
static unsigned nki_udp_gather_one(const nki_udp *u, const nki_udp_record *r, nki_dgram_out *out,
                                   unsigned count) {
    const unsigned char *data = (const unsigned char *)(r + 1);
    size_t at = r->sent;
    do {
        nki_dgram_out *o = &out[count++];
        o->data = data + at;
        o->len = nki_udp_piece(u, r, r->len - at);
        o->segment = o->len > r->segment ? r->segment : 0;
        o->route = &r->route;
        o->path = NULL;
        at += o->len;
    } while (at < r->len && count < NKI_DGRAM_BATCH);
    return count;
}

static unsigned nki_udp_gather(const nki_udp *u, nki_dgram_out *out) {
    unsigned count = 0;
    for (nki_udp_block *b = u->out; b != NULL && count < NKI_DGRAM_BATCH; b = b->next) {
        uint32_t at = b->begin;
        while (at < b->end && count < NKI_DGRAM_BATCH) {
            const nki_udp_record *r = nki_udp_record_at(b, at);
            count = nki_udp_gather_one(u, r, out, count);
            at += (uint32_t)nki_udp_record_size(r->len);
        }
    }
    return count;
}

static void nki_udp_sent(netkit_loop *loop, nki_udp *u, const nki_dgram_out *out, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        nki_udp_record *r = nki_udp_record_at(u->out, u->out->begin);
        r->sent += (uint32_t)out[i].len;
        r->tries = 0;
        if (r->sent >= r->len) {
            nki_udp_pop(loop, u);
        }
    }
    u->more->send_ms = 0;
}

/* Of more than there is place for, nobody is told, nor after the end. */
static void nki_udp_note_failed(netkit_loop *loop, nki_udp *u, const nki_udp_record *r, int code,
                                int os_code) {
    nki_udp_more *m = u->more;
    bool is_closing = (u->flags & NKI_D_CLOSING) != 0;
    bool is_told = nki_udp_tells_errors(loop, u) && !is_closing;
    if (is_closing || (is_told && m->failed_count == NKI_UDP_FAILED_MAX)) {
        m->lost += r->len - r->sent;
    } else if (is_told) {
        nki_udp_failed *f = &m->failed[m->failed_count++];
        f->route = r->route;
        f->len = r->len - r->sent;
        f->code = code;
        f->os_code = os_code;
        nki_enqueue(loop, &u->source);
    }
}

/* Codes that tell of a datagram sent before. */
static bool nki_udp_is_news(int code) {
    return code == NETKIT_E_REFUSED || code == NETKIT_E_UNREACHABLE || code == NETKIT_E_RESET ||
           code == NETKIT_E_TIMEOUT || code == NETKIT_E_TOOBIG || code == NETKIT_E_ACCESS ||
           code == NETKIT_E_NOSYS;
}

/* A call failed by news. Who it is about stands in the system's reports; where there are none it
 * can only be the peer of a connected one. */
static void nki_udp_heard(netkit_loop *loop, nki_udp *u, int code, int os_code) {
    if ((u->flags & NKI_D_TELL_ERRORS) != 0) {
        u->flags |= NKI_D_ERRORS;
        nki_enqueue(loop, &u->source);
    } else if (u->more->level != NETKIT_AF_NONE && nki_udp_is_news(code)) {
        nki_udp_record none;
        memset(&none, 0, sizeof none);
        none.route.level = u->more->level;
        nki_udp_note_failed(loop, u, &none, code, os_code);
    }
}

static void nki_udp_stall(netkit_loop *loop, nki_udp *u, bool is_told) {
    nki_udp_more *m = u->more;
    if (is_told) {
        u->flags |= NKI_D_STALLED;
        m->armed = UINT32_MAX; /* anew: a driver may have told of room once, and that is over */
        nki_udp_arm(loop, u);
        return;
    }
    m->send_ms = m->send_ms == 0 ? (uint32_t)NKI_UDP_SHORT_MS
                                 : NKI_MIN(m->send_ms * 2, (uint32_t)NKI_UDP_SHORT_MS_MAX);
    u->flags |= NKI_D_SHORT;
    m->send_due_ns = nki_after_ms(loop, m->send_ms);
    nki_udp_set_timer(loop, u);
}

/* The first message was not taken. Whether to go on now. */
static bool nki_udp_send_failed(netkit_loop *loop, nki_udp *u, const nki_dgram_out *out, int code) {
    int os_code = loop->driver->os_code();
    nki_udp_record *r = nki_udp_record_at(u->out, u->out->begin);
    if (code == NETKIT_E_AGAIN || code == NETKIT_E_NOMEM) {
        r->tries = 0; /* what it was refused with before was not its own */
        nki_udp_stall(loop, u, code == NETKIT_E_AGAIN);
        return false;
    }
    bool is_final = code == NETKIT_E_INVALID || code == NETKIT_E_TOOBIG ||
                    code == NETKIT_E_ACCESS || code == NETKIT_E_ADDRNOTAVAIL;
    /* Of IP a refusal is always another's, told once for each: as many may be waiting. */
    bool is_others = code == NETKIT_E_REFUSED && (u->flags & NKI_D_TELL_ERRORS) != 0;
    uint8_t most = is_others ? (uint8_t)NKI_UDP_RETRIES_MAX : (uint8_t)NKI_UDP_RETRIES;
    bool is_retried = !is_final && r->tries < most;
    if (is_retried || (u->flags & NKI_D_TELL_ERRORS) != 0) {
        nki_udp_heard(loop, u, code, os_code);
    }
    if (is_retried) {
        r->tries++;
        return true;
    }
    if (out->segment != 0 && code != NETKIT_E_ACCESS) {
        /* A card that cannot, or segments longer than the way takes whole: one by one then. */
        u->flags &= code == NETKIT_E_IO || code == NETKIT_E_NOSYS ? ~(uint32_t)NKI_D_GSO : ~0u;
        r->is_single = 1;
        r->tries = 0;
        return true;
    }
    nki_udp_note_failed(loop, u, r, code, os_code);
    nki_udp_pop(loop, u);
    return true;
}

/* Whether one more datagram fits: an empty queue takes any that may be sent at all. */
static bool nki_udp_fits(const nki_udp *u, size_t len) {
    return u->records == 0 || len + NKI_UDP_COST <= nki_udp_room(u);
}

/* The queue has shrunk: who waited for that? */
static void nki_udp_progress(netkit_loop *loop, nki_udp *u) {
    if ((u->flags & NKI_D_REFUSED) != 0 && nki_udp_fits(u, u->refused)) {
        u->flags = (u->flags & ~(uint32_t)NKI_D_REFUSED) | NKI_D_DRAIN_DUE;
        nki_enqueue_later(loop, &u->source);
    }
}

/* When there is no place to note more failures, the rest waits until they have been told; but not
 * for the end of a pause. */
static bool nki_udp_may_fail(const nki_udp *u) {
    return u->more->failed_count < NKI_UDP_FAILED_MAX ||
           (u->flags & (NKI_D_PAUSED | NKI_D_CLOSING)) != 0;
}

/* Send what is queued as far as the system takes it. Calls nobody back. */
static void nki_udp_flush(netkit_loop *loop, nki_udp *u) {
    nki_dgram_out out[NKI_DGRAM_BATCH];
    while (u->out != NULL && (u->flags & NKI_D_HELD) == 0 && nki_udp_may_fail(u)) {
        unsigned count = nki_udp_gather(u, out);
        int n = loop->driver->udp_send(loop, u, out, count);
        if (n > 0) {
            nki_udp_sent(loop, u, out, (unsigned)n);
        } else if (!nki_udp_send_failed(loop, u, out, n)) {
            break;
        }
    }
    nki_udp_progress(loop, u);
}

static void nki_udp_mark_dirty(netkit_loop *loop, nki_udp *u) {
    if ((u->flags & NKI_D_DIRTY) == 0) {
        u->flags |= NKI_D_DIRTY;
        u->next = NULL;
        if (loop->udp_dirty == NULL) {
            loop->udp_dirty = u;
        } else {
            loop->udp_dirty_last->next = u;
        }
        loop->udp_dirty_last = u;
    }
}

static void nki_udp_flush_dirty(netkit_loop *loop) {
    nki_udp *u;
    while ((u = loop->udp_dirty) != NULL) {
        loop->udp_dirty = u->next;
        u->flags &= ~(uint32_t)NKI_D_DIRTY;
        if ((u->flags & NKI_D_CLOSING) == 0) {
            nki_udp_flush(loop, u);
        }
    }
}

/* ---- src/loop/udp.c ---- */
/* Udps: receiving, reports of failures, and the end.
 *
 * What one call has received is a batch in memory that the loop has once. It is delivered one
 * datagram a step, before any other source is served; who is paused in the middle takes the rest
 * with it in memory of its own. Answers go out together at the end of a batch. Errors of receiving
 * are news about datagrams sent before, or a shortage of the machine: neither ends a udp (I8). */

static netkit_udp nki_udp_handle(const nki_udp *u) {
    netkit_udp handle;
    handle.id = u->source.id;
    return handle;
}

static nki_udp *nki_udp_of_node(nki_timer_node *node) {
    return ((nki_udp_more *)(void *)((char *)node - offsetof(nki_udp_more, timer)))->udp;
}

/* ---- the loop's half ---- */

static void nki_dgrams_free(netkit_loop *loop) {
    nki_dgrams *d = loop->dgrams;
    if (d == NULL) {
        return;
    }
    while (d->spare != NULL) {
        nki_udp_block *b = d->spare;
        d->spare = b->next;
        nki_udp_block_free(loop, b);
    }
    if (d->dead != NULL) {
        nki_free(&loop->allocator, d->dead, d->dead->size);
    }
    nki_free(&loop->allocator, d->recv_scratch, nki_os_dgram_scratch(NKI_DGRAM_BATCH));
    nki_free(&loop->allocator, d->send_scratch, nki_os_dgram_scratch(NKI_DGRAM_BATCH));
    nki_free(&loop->allocator, d->memory, NKI_UDP_AREA);
    nki_free(&loop->allocator, d, sizeof *d);
    loop->dgrams = NULL;
}

/* With the first udp. */
static int nki_dgrams_create(netkit_loop *loop) {
    if (loop->dgrams != NULL) {
        return NETKIT_OK;
    }
    nki_dgrams *d = (nki_dgrams *)nki_alloc_zero(&loop->allocator, sizeof *d);
    if (d == NULL) {
        return NETKIT_E_NOMEM;
    }
    loop->dgrams = d;
    d->recv_scratch = nki_alloc_zero(&loop->allocator, nki_os_dgram_scratch(NKI_DGRAM_BATCH));
    d->send_scratch = nki_alloc(&loop->allocator, nki_os_dgram_scratch(NKI_DGRAM_BATCH));
    d->memory = (unsigned char *)nki_alloc(&loop->allocator, NKI_UDP_AREA);
    if (d->recv_scratch == NULL || d->send_scratch == NULL || d->memory == NULL) {
        nki_dgrams_free(loop);
        return NETKIT_E_NOMEM;
    }
    return NETKIT_OK;
}

/* Nobody looks at it any more. */
static void nki_dgrams_bury(netkit_loop *loop) {
    nki_dgrams *d = loop->dgrams;
    if (d->dead != NULL) {
        nki_free(&loop->allocator, d->dead, d->dead->size);
        d->dead = NULL;
    }
}

/* ---- after a callback ---- */

static bool nki_udp_has_more(const nki_udp *u) {
    if ((u->flags & NKI_D_DRAIN_DUE) != 0) {
        return true;
    }
    bool may_read = (u->source.ready & NKI_READABLE) != 0 && (u->flags & NKI_D_STARVED) == 0;
    return (u->flags & NKI_D_PAUSED) == 0 && (u->more->failed_count != 0 || u->parked != NULL ||
                                              (u->flags & NKI_D_ERRORS) != 0 || may_read);
}

static void nki_udp_after(netkit_loop *loop, nki_udp *u) {
    if ((u->flags & NKI_D_CLOSING) != 0) {
        return;
    }
    if ((u->flags & NKI_D_DIRTY) != 0 || u->out != NULL) {
        nki_udp_flush(loop, u);
    }
    if (nki_udp_has_more(u)) {
        nki_enqueue(loop, &u->source);
    } else {
        u->tally = 0;
    }
}

/* ---- the batch ---- */

static void nki_udp_batch_begin(netkit_loop *loop, nki_udp *u, const netkit_datagram *items,
                                unsigned count) {
    nki_dgrams *d = loop->dgrams;
    d->items = items;
    d->at = 0;
    d->count = count;
    d->offset = 0;
    d->in_use = NULL;
    loop->udp_batch = u;
}

/* No more of the batch is delivered. What its udp's callback has in hands stays until the next
 * batch begins. */
static void nki_udp_batch_end(netkit_loop *loop) {
    nki_dgrams *d = loop->dgrams;
    loop->udp_batch = NULL;
    if (d->parked != NULL) {
        d->dead = d->parked;
        d->parked = NULL;
    }
}

/* The next datagram to be delivered, or NULL. */
static const netkit_datagram *nki_udp_batch_next(const nki_udp *u, nki_dgrams *d) {
    if (d->at == d->count) {
        return NULL;
    }
    const netkit_datagram *item = &d->items[d->at];
    if (item->segment_size == 0 || (u->flags & NKI_D_WHOLE) != 0) {
        d->at++;
        return item;
    }
    d->one = *item; /* each time: another udp's may have been told in between */
    d->one.segment_size = 0;
    size_t left = item->len - d->offset;
    d->one.data = (const char *)item->data + d->offset;
    d->one.len = NKI_MIN(left, (size_t)item->segment_size);
    d->one.is_truncated = item->is_truncated && d->one.len == left;
    d->offset += d->one.len;
    if (d->offset == item->len) {
        d->offset = 0;
        d->at++;
    }
    return &d->one;
}

/* One step of a batch. */
static void nki_udp_deliver(netkit_loop *loop) {
    nki_udp *u = loop->udp_batch;
    const netkit_datagram *datagram = nki_udp_batch_next(u, loop->dgrams);
    if (datagram == NULL) {
        nki_udp_batch_end(loop);
        nki_udp_after(loop, u);
        return;
    }
    if (NKI_LIKELY(u->more->handler.on_datagram != NULL)) {
        uint64_t started = nki_call_begin(loop);
        u->more->handler.on_datagram(loop, nki_udp_handle(u), datagram, u->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_DATAGRAM, u, u->user);
        ev->udp = nki_udp_handle(u);
        ev->datagram = datagram;
    }
}

/* ---- parking ---- */

static const netkit_datagram *nki_udp_parked_items(const nki_udp_parked *p) {
    return (const netkit_datagram *)(const void *)(p + 1);
}

/* The rest of the batch in memory of its own; NULL when there is none. */
static nki_udp_parked *nki_udp_copy_rest(netkit_loop *loop, const nki_dgrams *d) {
    unsigned count = d->count - d->at;
    size_t size = sizeof(nki_udp_parked) + count * sizeof(netkit_datagram);
    for (unsigned i = d->at; i < d->count; i++) {
        size += d->items[i].len;
    }
    nki_udp_parked *p = (nki_udp_parked *)nki_alloc(&loop->allocator, size);
    if (p == NULL) {
        return NULL;
    }
    netkit_datagram *items = (netkit_datagram *)(void *)(p + 1);
    unsigned char *bytes = (unsigned char *)(items + count);
    p->size = size;
    p->at = 0;
    p->count = count;
    p->offset = d->offset;
    for (unsigned i = 0; i < count; i++) {
        items[i] = d->items[d->at + i];
        if (items[i].len != 0) {
            memcpy(bytes, items[i].data, items[i].len);
        }
        items[i].data = bytes;
        bytes += items[i].len;
    }
    return p;
}

/* The udp whose batch it is was paused. */
static void nki_udp_park(netkit_loop *loop, nki_udp *u) {
    nki_dgrams *d = loop->dgrams;
    loop->udp_batch = NULL;
    if (d->parked != NULL && d->at != d->count) {
        u->parked = d->parked;
        u->parked->at = d->at;
        u->parked->offset = d->offset;
        d->parked = NULL;
    } else if (d->at != d->count) {
        u->parked = nki_udp_copy_rest(loop, d);
        if (u->parked == NULL) { /* as if the socket's buffer had been full, but told */
            nki_udp_record none;
            memset(&none, 0, sizeof none);
            nki_udp_note_failed(loop, u, &none, NETKIT_E_NOMEM, 0);
        }
    }
    nki_udp_batch_end(loop);
    nki_enqueue(loop, &u->source); /* what was answered goes out */
}

static void nki_udp_unpark(netkit_loop *loop, nki_udp *u) {
    nki_dgrams *d = loop->dgrams;
    nki_udp_parked *p = u->parked;
    u->parked = NULL;
    nki_udp_batch_begin(loop, u, nki_udp_parked_items(p), p->count);
    d->parked = p;
    d->in_use = p;
    d->at = p->at;
    d->offset = p->offset;
}

/* ---- receiving ---- */

/* Where a datagram came to is the address of the socket, when that has a single one. */
static void nki_udp_fill_local(const nki_udp *u, netkit_datagram *items, unsigned count) {
    const nki_udp_more *m = u->more;
    for (unsigned i = 0; i < count; i++) {
        if (items[i].local.family != NETKIT_AF_NONE) {
            items[i].local.port = m->bound.port;
        } else if (m->bound.family == NETKIT_AF_UNIX) {
            items[i].local = m->bound;
        } else if (!m->is_wildcard) {
            memcpy(&items[i].local, &m->bound, offsetof(netkit_addr, path));
        }
    }
}

static uint32_t nki_udp_cost(const netkit_datagram *items, unsigned count) {
    uint32_t sum = 0;
    for (unsigned i = 0; i < count; i++) {
        sum += NKI_MAX((uint32_t)items[i].len, (uint32_t)NKI_UDP_READ_COST);
    }
    return sum;
}

/* The machine is short of something: pause, and report the first time. */
static void nki_udp_starve(netkit_loop *loop, nki_udp *u, int code) {
    nki_udp_more *m = u->more;
    bool is_first = m->recv_ms == 0;
    m->recv_ms =
        is_first ? (uint32_t)NKI_DEFER_MS_MIN : NKI_MIN(m->recv_ms * 2, (uint32_t)NKI_DEFER_MS_MAX);
    u->flags |= NKI_D_STARVED;
    m->recv_due_ns = nki_after_ms(loop, m->recv_ms);
    nki_udp_set_timer(loop, u);
    if (is_first) {
        nki_udp_record none;
        memset(&none, 0, sizeof none);
        nki_udp_note_failed(loop, u, &none, code, loop->driver->os_code());
    }
    nki_udp_arm(loop, u);
}

static void nki_udp_recv_failed(netkit_loop *loop, nki_udp *u, int code) {
    u->tally += NKI_UDP_READ_COST;
    if (!nki_udp_is_news(code) || ++u->more->failures > NKI_UDP_FAILURES_MAX) {
        nki_udp_starve(loop, u, code);
    } else {
        nki_udp_heard(loop, u, code, loop->driver->os_code());
    }
}

static void nki_udp_receive(netkit_loop *loop, nki_udp *u) {
    nki_dgrams_bury(loop);
    int n = loop->driver->udp_recv(loop, u);
    if (n > 0) {
        u->tally += nki_udp_cost(loop->dgrams->in, (unsigned)n);
        u->more->recv_ms = 0;
        u->more->failures = 0;
        nki_udp_fill_local(u, loop->dgrams->in, (unsigned)n);
        nki_udp_batch_begin(loop, u, loop->dgrams->in, (unsigned)n);
        return;
    }
    if (n == NETKIT_E_AGAIN) {
        u->more->recv_ms = 0;
        u->more->failures = 0;
    } else {
        nki_udp_recv_failed(loop, u, n);
    }
    nki_udp_after(loop, u);
}

/* ---- failures ---- */

static void nki_udp_tell_error(netkit_loop *loop, nki_udp *u, const netkit_datagram *failed) {
    if (u->more->handler.on_error != NULL) {
        uint64_t started = nki_call_begin(loop);
        u->more->handler.on_error(loop, nki_udp_handle(u), failed, u->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_UDP_ERROR, u, u->user);
        ev->udp = nki_udp_handle(u);
        ev->datagram = failed;
        return;
    }
    nki_udp_after(loop, u);
}

/* A send that failed, the oldest. */
static void nki_udp_tell_failed(netkit_loop *loop, nki_udp *u) {
    nki_udp_more *m = u->more;
    netkit_datagram *d = &loop->dgrams->one;
    nki_udp_failed f = m->failed[0];
    u->tally += NKI_UDP_READ_COST; /* who sends it again at once must not keep the turn for ever */
    m->failed_count--;
    memmove(m->failed, m->failed + 1, m->failed_count * sizeof m->failed[0]);
    memset(d, 0, sizeof *d);
    d->peer.family = f.route.family;
    d->peer.port = f.route.port;
    d->peer.scope = f.route.scope;
    memcpy(d->peer.ip, f.route.ip, sizeof d->peer.ip);
    if (f.route.family == NETKIT_AF_NONE && f.route.level != NETKIT_AF_NONE) {
        (void)loop->driver->remote(loop, u->source.socket, &d->peer);
    }
    d->local.family = f.route.local_family;
    memcpy(d->local.ip, f.route.local, sizeof d->local.ip);
    d->interface_index = f.route.interface_index;
    d->tos = f.route.tos;
    d->ttl = f.route.ttl;
    d->len = f.len;
    d->error = f.code;
    d->os_code = f.os_code;
    nki_udp_tell_error(loop, u, d);
}

/* A report out of the system. When there is no more, one receive clears what may still make the
 * socket look ready. */
static void nki_udp_report(netkit_loop *loop, nki_udp *u) {
    netkit_datagram *d = &loop->dgrams->one;
    if (loop->driver->udp_failed(loop, u, d) == NETKIT_OK) {
        u->tally += NKI_UDP_READ_COST;
        u->flags |= NKI_D_ERRORS;
        nki_udp_tell_error(loop, u, d);
        return;
    }
    u->flags &= ~(uint32_t)NKI_D_ERRORS;
    u->source.ready = (uint16_t)((u->source.ready & ~NETKIT_POLL_ERROR) | NETKIT_POLL_READ);
    nki_udp_after(loop, u);
}

/* Paused, and waiting for room: as long as reports are there, they wake us instead. They are taken
 * out and told later, as far as there is place for them. */
static void nki_udp_keep_reports(netkit_loop *loop, nki_udp *u) {
    netkit_datagram *d = &loop->dgrams->one;
    for (int i = 0; i < NKI_DGRAM_BATCH; i++) {
        nki_udp_record r;
        if (loop->driver->udp_failed(loop, u, d) != NETKIT_OK) {
            break;
        }
        memset(&r, 0, sizeof r);
        (void)nki_route_to(&r.route, &d->peer, u->more->level);
        r.len = (uint32_t)d->len;
        if (u->more->failed_count < NKI_UDP_FAILED_MAX) {
            nki_udp_note_failed(loop, u, &r, d->error, d->os_code);
        }
    }
    u->flags &= ~(uint32_t)NKI_D_ERRORS;
    u->source.ready = (uint16_t)(u->source.ready & ~NETKIT_POLL_ERROR);
}

static void nki_udp_tell_drain(netkit_loop *loop, nki_udp *u) {
    u->flags &= ~(uint32_t)NKI_D_DRAIN_DUE;
    if (u->more->handler.on_drain != NULL) {
        uint64_t started = nki_call_begin(loop);
        u->more->handler.on_drain(loop, nki_udp_handle(u), u->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_UDP_DRAIN, u, u->user);
        ev->udp = nki_udp_handle(u);
        return;
    }
    nki_udp_after(loop, u);
}

/* ---- a step ---- */

static void nki_udp_closed(netkit_loop *loop, nki_udp *u);

static bool nki_udp_has_reports(const nki_udp *u) {
    return (u->flags & NKI_D_TELL_ERRORS) != 0 &&
           ((u->flags & NKI_D_ERRORS) != 0 || (u->source.ready & NETKIT_POLL_ERROR) != 0);
}

/* What is to be read, in the order of news: at most one thing. */
static void nki_udp_step_input(netkit_loop *loop, nki_udp *u) {
    bool has_reports = nki_udp_has_reports(u);
    bool may_read = (u->source.ready & NKI_READABLE) != 0 && (u->flags & NKI_D_STARVED) == 0;
    bool has_failed = u->more->failed_count != 0;
    if (u->tally >= loop->desc.conn_budget && (has_failed || has_reports || may_read)) {
        u->tally = 0;
        nki_enqueue_later(loop, &u->source);
    } else if (has_failed) {
        nki_udp_tell_failed(loop, u);
    } else if (u->parked != NULL) {
        nki_dgrams_bury(loop);
        nki_udp_unpark(loop, u);
    } else if (has_reports) {
        nki_udp_report(loop, u);
    } else if (may_read) {
        nki_udp_receive(loop, u);
    }
}

static void nki_udp_step(netkit_loop *loop, nki_udp *u) {
    const uint32_t writable = NETKIT_POLL_WRITE | NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
    const uint32_t waits = NKI_D_STALLED | NKI_D_PAUSED;
    if ((u->flags & NKI_D_CLOSING) != 0) {
        if ((u->source.flags & NKI_S_GONE) != 0) {
            nki_udp_closed(loop, u);
        }
        return;
    }
    if ((u->flags & waits) == waits && nki_udp_has_reports(u)) {
        nki_udp_keep_reports(loop, u);
        u->source.ready = (uint16_t)(u->source.ready | NETKIT_POLL_WRITE); /* to wait anew */
    }
    if ((u->flags & NKI_D_STALLED) != 0 && (u->source.ready & writable) != 0) {
        u->flags &= ~(uint32_t)NKI_D_STALLED;
        nki_udp_flush(loop, u);
        nki_udp_arm(loop, u);
    }
    u->source.ready = (uint16_t)(u->source.ready & ~(uint32_t)NETKIT_POLL_WRITE);
    if ((u->flags & NKI_D_DRAIN_DUE) != 0) {
        nki_udp_tell_drain(loop, u);
    } else if ((u->flags & NKI_D_PAUSED) == 0) {
        nki_udp_step_input(loop, u);
    } else {
        nki_udp_after(loop, u);
    }
}

static void nki_udp_timer_fired(netkit_loop *loop, nki_udp *u) {
    nki_udp_more *m = u->more;
    if (m->send_due_ns <= loop->turn_ns) {
        m->send_due_ns = NKI_NEVER;
        u->flags &= ~(uint32_t)NKI_D_SHORT;
        nki_udp_flush(loop, u);
    }
    if (m->recv_due_ns <= loop->turn_ns) {
        m->recv_due_ns = NKI_NEVER;
        u->flags &= ~(uint32_t)NKI_D_STARVED;
        u->source.ready = (uint16_t)(u->source.ready | NETKIT_POLL_READ);
        nki_enqueue(loop, &u->source);
        nki_udp_arm(loop, u);
    }
    nki_udp_set_timer(loop, u);
}

/* ---- the end ---- */

static void nki_udp_dispose(netkit_loop *loop, nki_udp *u) {
    nki_udp_more *m = u->more;
    nki_timers_stop(&loop->timers, &m->timer);
    nki_ext_free(&loop->allocator, u->ext, m->ext_size);
    nki_free(&loop->allocator, m, sizeof *m);
    u->more = NULL;
    u->ext = NULL;
    nki_bury(loop, &u->source);
}

static void nki_udp_closed(netkit_loop *loop, nki_udp *u) {
    netkit_close_info info;
    bool is_destroyed = (u->flags & NKI_D_DESTROYED) != 0;
    memset(&info, 0, sizeof info);
    info.code = is_destroyed ? (int)NETKIT_E_CANCELLED : (int)NETKIT_OK;
    info.op = NETKIT_OP_CLOSE;
    info.phase = NETKIT_PHASE_OPEN;
    info.text = is_destroyed ? "the loop was destroyed" : "closed here";
    info.unsent = u->queued + u->more->lost;
    if (u->more->handler.on_close != NULL) {
        uint64_t started = nki_call_begin(loop);
        u->more->handler.on_close(loop, nki_udp_handle(u), &info, u->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_UDP_CLOSE, u, u->user);
        ev->udp = nki_udp_handle(u);
        ev->close = info;
        return; /* disposed of when the next event is fetched */
    }
    nki_udp_dispose(loop, u);
}

/* A callback that has paused its udp may still look at them. */
static void nki_udp_drop_parked(netkit_loop *loop, nki_udp *u) {
    nki_dgrams *d = loop->dgrams;
    nki_udp_parked *p = u->parked;
    u->parked = NULL;
    if (p != NULL && p == d->in_use) {
        nki_dgrams_bury(loop);
        d->dead = p;
    } else if (p != NULL) {
        nki_free(&loop->allocator, p, p->size);
    }
}

/* Failures that have not been told never will be. */
static void nki_udp_drop_failed(nki_udp_more *m) {
    for (unsigned i = 0; i < m->failed_count; i++) {
        m->lost += m->failed[i].len;
    }
    m->failed_count = 0;
}

/* From anywhere: nothing more is received or told but the end. */
static void nki_udp_close(netkit_loop *loop, nki_udp *u) {
    if ((u->flags & NKI_D_CLOSING) != 0) {
        return;
    }
    nki_udp_drop_failed(u->more);
    u->flags |= NKI_D_CLOSING;
    nki_udp_flush(loop, u);
    if (u->out != NULL) {
        u->queued -= nki_udp_record_at(u->out, u->out->begin)->sent;
    }
    nki_udp_drop_out(loop, u);
    if (loop->udp_batch == u) {
        nki_udp_batch_end(loop);
    }
    nki_udp_drop_parked(loop, u);
    nki_timers_stop(&loop->timers, &u->more->timer);
    loop->driver->shut(loop, &u->source, false);
}

/* ---- src/loop/udp_api.c ---- */
/* Udps, as users call them: find the udp, check what is asked, do the least that is right now. */

static int nki_udp_find(netkit_loop *loop, netkit_udp udp, nki_udp **out) {
    int error = nki_enter(loop);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    *out = (nki_udp *)nki_slots_find(&loop->sources, udp.id, NKI_KIND_UDP);
    return NKI_LIKELY(*out != NULL) ? NETKIT_OK : NETKIT_E_STALE;
}

static int nki_udp_find_open(netkit_loop *loop, netkit_udp udp, nki_udp **out) {
    int error = nki_udp_find(loop, udp, out);
    if (NKI_LIKELY(error == NETKIT_OK) && NKI_UNLIKELY(((*out)->flags & NKI_D_CLOSING) != 0)) {
        return NETKIT_E_CLOSED;
    }
    return error;
}

/* ---- sending ---- */

static NKI_COLD int nki_udp_refuse(nki_udp *u, size_t len) {
    u->refused = (uint32_t)len;
    u->flags = (u->flags & ~(uint32_t)NKI_D_DRAIN_DUE) | NKI_D_REFUSED;
    return NETKIT_E_FULL;
}

/* Whether this socket can send there at all. */
static int nki_udp_check_route(const nki_udp *u, const nki_route *r) {
    bool is_ipv6 = (u->flags & NKI_D_IPV6) != 0;
    if (r->family == NETKIT_AF_NONE) {
        return u->more->level == NETKIT_AF_NONE ? NETKIT_E_NOTCONN : NETKIT_OK;
    }
    return r->family == NETKIT_AF_IPV6 && !is_ipv6 ? NETKIT_E_INVALID : NETKIT_OK;
}

/* A large one on an empty queue goes from the caller's memory. Whether it went. */
static bool nki_udp_send_direct(netkit_loop *loop, nki_udp *u, const nki_route *route,
                                const void *data, size_t len, uint32_t segment) {
    nki_dgram_out out;
    bool is_cut = segment != 0 && segment < len;
    if (u->out != NULL || (u->flags & NKI_D_HELD) != 0 || len > NETKIT_DATAGRAM_MAX ||
        (is_cut &&
         ((u->flags & NKI_D_GSO) == 0 || len > (size_t)segment * (size_t)NKI_DGRAM_SEGMENTS))) {
        return false;
    }
    out.data = data;
    out.len = len;
    out.segment = is_cut ? segment : 0;
    out.route = route;
    out.path = NULL;
    return loop->driver->udp_send(loop, u, &out, 1) == 1;
}

static int nki_udp_put(netkit_loop *loop, nki_udp *u, const nki_route *route, const void *data,
                       size_t len, uint32_t segment) {
    int error = nki_udp_check_route(u, route);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    size_t most = route->level == NETKIT_AF_IPV6 ? NETKIT_DATAGRAM_MAX + 20 : NETKIT_DATAGRAM_MAX;
    if (NKI_UNLIKELY(len > most || len > u->more->send_max)) {
        return NETKIT_E_TOOBIG;
    }
    if (len >= NKI_UDP_DIRECT_MIN && nki_udp_send_direct(loop, u, route, data, len, segment)) {
        return NETKIT_OK;
    }
    if (NKI_UNLIKELY(!nki_udp_fits(u, len))) {
        nki_udp_flush(loop, u);
        if (!nki_udp_fits(u, len)) {
            return nki_udp_refuse(u, len);
        }
    }
    error = nki_udp_queue(loop, u, route, data, len, segment);
    if (NKI_LIKELY(error == NETKIT_OK)) {
        nki_udp_mark_dirty(loop, u);
        if (u->records >= NKI_DGRAM_BATCH || u->queued >= NKI_FLUSH_AT) {
            nki_udp_flush(loop, u);
        }
    }
    return error;
}

NETKIT_API int netkit_udp_send(netkit_loop *loop, netkit_udp udp, const netkit_addr *to,
                               const void *data, size_t len) {
    nki_udp *u;
    nki_route route;
    int error = nki_udp_find_open(loop, udp, &u);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    if (NKI_UNLIKELY(data == NULL && len != 0)) {
        return NETKIT_E_INVALID;
    }
    error = nki_route_to(&route, to, u->more->level);
    return error != NETKIT_OK ? error : nki_udp_put(loop, u, &route, data, len, 0);
}

/* From the address that was asked; by the interface only where an address alone does not tell
 * which network is meant. */
NETKIT_API int netkit_udp_reply(netkit_loop *loop, netkit_udp udp, const netkit_datagram *received,
                                const void *data, size_t len) {
    nki_udp *u;
    nki_route route;
    int error = nki_udp_find_open(loop, udp, &u);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    if (NKI_UNLIKELY(received == NULL || (data == NULL && len != 0))) {
        return NETKIT_E_INVALID;
    }
    bool is_connected = u->more->level != NETKIT_AF_NONE;
    error = nki_route_to(&route, is_connected ? NULL : &received->peer, u->more->level);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    if (u->more->is_wildcard && received->local.family == route.level &&
        nki_addr_is_source(&received->local)) {
        route.local_family = received->local.family;
        memcpy(route.local, received->local.ip, sizeof route.local);
        route.interface_index = route.scope != 0 ? received->interface_index : 0;
    }
    return nki_udp_put(loop, u, &route, data, len, 0);
}

static int nki_udp_put_datagram(netkit_loop *loop, nki_udp *u, const netkit_datagram *d) {
    nki_route route;
    int error = nki_datagram_is_valid(d) ? nki_route_to(&route, &d->peer, u->more->level)
                                         : NETKIT_E_INVALID;
    if (error == NETKIT_OK) {
        error = nki_route_ask(&route, d);
    }
    return error != NETKIT_OK ? error
                              : nki_udp_put(loop, u, &route, d->data, d->len, d->segment_size);
}

NETKIT_API int netkit_udp_send_batch(netkit_loop *loop, netkit_udp udp,
                                     const netkit_datagram *datagrams, size_t count) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error != NETKIT_OK) {
        return error;
    }
    if ((datagrams == NULL && count != 0) || count > INT_MAX) {
        return NETKIT_E_INVALID;
    }
    for (size_t i = 0; i < count; i++) {
        error = nki_udp_put_datagram(loop, u, &datagrams[i]);
        if (error != NETKIT_OK) {
            return i == 0 ? error : (int)i;
        }
    }
    return (int)count;
}

NETKIT_API int netkit_udp_flush(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error == NETKIT_OK) {
        nki_udp_flush(loop, u);
        nki_commit(loop);
    }
    return error;
}

NETKIT_API int netkit_udp_close(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    int error = nki_udp_find(loop, udp, &u);
    if (error == NETKIT_OK) {
        nki_udp_close(loop, u);
    }
    return error;
}

/* ---- flow, groups ---- */

NETKIT_API int netkit_udp_pause(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error == NETKIT_OK) {
        u->flags |= NKI_D_PAUSED;
        if (loop->udp_batch == u) {
            nki_udp_park(loop, u);
        }
        nki_udp_arm(loop, u);
    }
    return error;
}

NETKIT_API int netkit_udp_resume(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error == NETKIT_OK) {
        u->flags &= ~(uint32_t)NKI_D_PAUSED;
        nki_enqueue(loop, &u->source);
        nki_udp_arm(loop, u);
    }
    return error;
}

static int nki_udp_join(netkit_loop *loop, netkit_udp udp, bool is_join, const netkit_addr *group,
                        uint32_t interface_index, const netkit_addr *source) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error != NETKIT_OK || group == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    return loop->driver->udp_join(loop, u->source.socket, is_join, group, interface_index, source);
}

NETKIT_API int netkit_udp_join(netkit_loop *loop, netkit_udp udp, const netkit_addr *group,
                               uint32_t interface_index, const netkit_addr *source) {
    return nki_udp_join(loop, udp, true, group, interface_index, source);
}

NETKIT_API int netkit_udp_leave(netkit_loop *loop, netkit_udp udp, const netkit_addr *group,
                                uint32_t interface_index, const netkit_addr *source) {
    return nki_udp_join(loop, udp, false, group, interface_index, source);
}

/* ---- looking ---- */

/* One whose descriptor is still there, for what needs a place for the answer. */
static int nki_udp_find_socket(netkit_loop *loop, netkit_udp udp, const void *out,
                               nki_udp **found) {
    int error = nki_udp_find_open(loop, udp, found);
    return error == NETKIT_OK && out == NULL ? (int)NETKIT_E_INVALID : error;
}

NETKIT_API int netkit_udp_caps(netkit_loop *loop, netkit_udp udp, uint32_t *caps) {
    nki_udp *u;
    nki_no_answer(caps, sizeof *caps);
    int error = nki_udp_find_socket(loop, udp, caps, &u);
    if (error == NETKIT_OK) {
        bool lacks_gso = (u->flags & NKI_D_GSO) == 0;
        *caps = u->more->caps & ~(lacks_gso ? (uint32_t)NETKIT_UDP_CAP_GSO : 0u);
    }
    return error;
}

NETKIT_API int netkit_udp_local(netkit_loop *loop, netkit_udp udp, netkit_addr *out) {
    nki_udp *u;
    nki_no_answer(out, sizeof *out);
    int error = nki_udp_find_socket(loop, udp, out, &u);
    return error != NETKIT_OK ? error : loop->driver->local(loop, u->source.socket, out);
}

NETKIT_API int netkit_udp_remote(netkit_loop *loop, netkit_udp udp, netkit_addr *out) {
    nki_udp *u;
    nki_no_answer(out, sizeof *out);
    int error = nki_udp_find_socket(loop, udp, out, &u);
    return error != NETKIT_OK ? error : loop->driver->remote(loop, u->source.socket, out);
}

NETKIT_API int netkit_udp_queued(netkit_loop *loop, netkit_udp udp, size_t *out) {
    nki_udp *u;
    nki_no_answer(out, sizeof *out);
    int error = nki_udp_find(loop, udp, &u);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    *out = u->queued;
    return NETKIT_OK;
}

NETKIT_API int netkit_udp_native(netkit_loop *loop, netkit_udp udp, uintptr_t *native) {
    nki_udp *u;
    nki_no_native(native);
    int error = nki_udp_find_socket(loop, udp, native, &u);
    if (error == NETKIT_OK) {
        *native = u->source.socket;
    }
    return error;
}

NETKIT_API int netkit_udp_set_option(netkit_loop *loop, netkit_udp udp, netkit_option option,
                                     int value) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    bool is_ours = option == NETKIT_OPT_BLOCKING || option == NETKIT_OPT_GRO ||
                   option == NETKIT_OPT_TELL_ERRORS;
    if (error == NETKIT_OK && is_ours) {
        return NETKIT_E_INVALID;
    }
    return error != NETKIT_OK ? error
                              : loop->driver->set_option(loop, u->source.socket, option, value);
}

NETKIT_API int netkit_udp_get_option(netkit_loop *loop, netkit_udp udp, netkit_option option,
                                     int *value) {
    nki_udp *u;
    nki_no_answer(value, sizeof *value);
    int error = nki_udp_find_socket(loop, udp, value, &u);
    return error != NETKIT_OK ? error
                              : loop->driver->get_option(loop, u->source.socket, option, value);
}

NETKIT_API void *netkit_udp_user(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    return nki_udp_find(loop, udp, &u) == NETKIT_OK ? u->user : NULL;
}

NETKIT_API int netkit_udp_set_user(netkit_loop *loop, netkit_udp udp, void *user) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error == NETKIT_OK) {
        u->user = user;
    }
    return error;
}

NETKIT_API void *netkit_udp_ext(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    return nki_udp_find(loop, udp, &u) == NETKIT_OK ? u->ext : NULL;
}

NETKIT_API int netkit_udp_set_referenced(netkit_loop *loop, netkit_udp udp, bool referenced) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    return error != NETKIT_OK ? error : nki_set_referenced(loop, &u->source, referenced);
}

/* ---- opening ---- */

/* One of two ways to say an address, or none. */
static int nki_udp_desc_addr(const char *text, const netkit_addr *addr, netkit_addr *out,
                             const netkit_addr **given) {
    *given = NULL;
    if (text == NULL && addr == NULL) {
        return NETKIT_OK;
    }
    int error = nki_desc_addr(text, addr, out);
    if (error != NETKIT_OK) {
        return error;
    }
    if (out->family != NETKIT_AF_IPV4 && out->family != NETKIT_AF_IPV6) {
        return NETKIT_E_INVALID;
    }
    *given = out;
    return NETKIT_OK;
}

static int nki_udp_socket(netkit_loop *loop, const netkit_udp_desc *desc, uintptr_t *socket,
                          uint32_t *caps) {
    nki_udp_how how;
    netkit_addr addr;
    netkit_addr peer;
    int error = nki_udp_desc_addr(desc->address, desc->addr, &addr, &how.addr);
    if (error == NETKIT_OK) {
        error = nki_udp_desc_addr(desc->peer, desc->peer_addr, &peer, &how.peer);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    bool has_any = how.addr != NULL || how.peer != NULL;
    bool is_adopted = desc->socket.value != 0;
    how.adopted = is_adopted ? netkit_socket_native(desc->socket) : UINTPTR_MAX;
    how.flags = (desc->reuse_port ? NETKIT_SOCKET_REUSE_PORT : 0) |
                (desc->v6only ? NETKIT_SOCKET_V6ONLY : 0);
    how.is_shared = desc->share;
    how.recv_buffer = desc->recv_buffer;
    how.send_buffer = desc->send_buffer;
    return has_any == is_adopted ? (int)NETKIT_E_INVALID
                                 : loop->driver->udp_open(loop, &how, socket, caps);
}

/* What is wished, as far as the system has it. */
static int nki_udp_wish(netkit_loop *loop, const nki_udp *u, netkit_option option, bool is_wished,
                        bool *has) {
    int error = !is_wished ? (int)NETKIT_E_NOSYS
                           : loop->driver->set_option(loop, u->source.socket, option, 1);
    *has = error == NETKIT_OK;
    return error == NETKIT_E_NOSYS ? NETKIT_OK : error;
}

static int nki_udp_set_options(netkit_loop *loop, nki_udp *u, const netkit_udp_desc *desc,
                               bool *has_gro) {
    bool has;
    bool is_merged = desc->gro || desc->gro_whole;
    int error = nki_udp_wish(loop, u, NETKIT_OPT_BROADCAST, desc->broadcast, &has);
    if (error == NETKIT_OK) {
        bool is_told = desc->tell_local || u->more->is_wildcard;
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_LOCAL, is_told, &has);
    }
    if (error == NETKIT_OK) {
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_TOS, desc->tell_tos, &has);
    }
    if (error == NETKIT_OK) {
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_TTL, desc->tell_ttl, &has);
    }
    if (error == NETKIT_OK) {
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_TIME, desc->tell_time, &has);
    }
    if (error == NETKIT_OK) {
        /* Where the system does not tell about whom, it can only be a connected one's peer. */
        bool has_reports = (u->more->caps & NETKIT_UDP_CAP_ERRORS) != 0;
        bool is_told =
            nki_udp_tells_errors(loop, u) && (has_reports || u->more->level != NETKIT_AF_NONE);
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_ERRORS, is_told, &has);
        u->flags |= has && has_reports ? (uint32_t)NKI_D_TELL_ERRORS : 0u;
    }
    if (error == NETKIT_OK) {
        error = nki_udp_wish(loop, u, NETKIT_OPT_GRO, is_merged, has_gro);
    }
    return error;
}

/* Where its datagrams are put. Neighbours are not a multiple of 4 KiB apart, else their beginnings
 * would fall on the same few lines of the cache. */
static void nki_udp_set_room(netkit_loop *loop, nki_udp *u, size_t size) {
    nki_dgram_room *room = &u->more->room;
    size_t lines = ((size + NKI_CACHE_LINE - 1) / NKI_CACHE_LINE) | 1u;
    size_t count = (size_t)NKI_UDP_AREA / (lines * NKI_CACHE_LINE);
    room->memory = loop->dgrams->memory;
    room->stride = lines * NKI_CACHE_LINE;
    room->size = size;
    room->count = (unsigned)NKI_MIN(count, (size_t)NKI_DGRAM_BATCH);
}

static bool nki_addr_is_wildcard(const netkit_addr *addr) {
    static const uint8_t none[16] = {0};
    bool is_ip = addr->family == NETKIT_AF_IPV4 || addr->family == NETKIT_AF_IPV6;
    return is_ip && memcmp(addr->ip, none, sizeof none) == 0;
}

/* Learn what the socket is, and have it tell what is asked for. */
static int nki_udp_setup(netkit_loop *loop, nki_udp *u, const netkit_udp_desc *desc) {
    nki_udp_more *m = u->more;
    netkit_addr peer;
    bool has_gro = false;
    int error = loop->driver->local(loop, u->source.socket, &m->bound);
    if (error != NETKIT_OK) {
        return error;
    }
    m->is_wildcard = nki_addr_is_wildcard(&m->bound);
    u->flags |= m->bound.family == NETKIT_AF_IPV6 ? (uint32_t)NKI_D_IPV6 : 0u;
    u->flags |= (m->caps & NETKIT_UDP_CAP_GSO) != 0 ? (uint32_t)NKI_D_GSO : 0u;
    u->flags |= desc->gro_whole ? (uint32_t)NKI_D_WHOLE : 0u;
    error = loop->driver->remote(loop, u->source.socket, &peer);
    if (error == NETKIT_OK) {
        m->level = peer.family;
    } else if (error != NETKIT_E_NOTCONN) {
        return error;
    }
    error = nki_udp_set_options(loop, u, desc, &has_gro);
    nki_udp_set_room(loop, u, has_gro || desc->recv_size == 0 ? 65535u : desc->recv_size);
    return error;
}

static int nki_udp_begin(netkit_loop *loop, nki_udp *u, const netkit_udp_desc *desc) {
    int error = nki_udp_setup(loop, u, desc);
    if (error == NETKIT_OK) {
        error = nki_ext_create(&loop->allocator, desc->ext_size, &u->ext);
    }
    if (error == NETKIT_OK) {
        error = nki_timers_start(&loop->timers, &u->more->timer, NKI_NEVER);
    }
    if (error == NETKIT_OK) {
        error = loop->driver->attach(loop, &u->source);
    }
    return error;
}

static int nki_udp_create(netkit_loop *loop, const netkit_udp_desc *desc, uintptr_t socket,
                          uint32_t caps, nki_udp **out) {
    void *object;
    int error = nki_source_take(loop, NKI_KIND_UDP, socket, &object);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_udp *u = (nki_udp *)object;
    nki_udp_more *m = (nki_udp_more *)nki_alloc_zero(&loop->allocator, sizeof *m);
    if (m == NULL) {
        nki_source_undo(loop, &u->source);
        return NETKIT_E_NOMEM;
    }
    u->more = m;
    u->user = desc->user;
    m->handler = desc->handler;
    m->udp = u;
    m->timer.kind = NKI_KIND_UDP;
    m->send_due_ns = NKI_NEVER;
    m->recv_due_ns = NKI_NEVER;
    m->ext_size = desc->ext_size;
    m->send_max = nki_or(desc->send_max, 262144);
    m->caps = caps;
    m->armed = NETKIT_POLL_READ;
    error = nki_udp_begin(loop, u, desc);
    if (error != NETKIT_OK) {
        nki_timers_stop(&loop->timers, &m->timer);
        nki_ext_free(&loop->allocator, u->ext, m->ext_size);
        nki_free(&loop->allocator, m, sizeof *m);
        nki_source_undo(loop, &u->source);
        return error;
    }
    *out = u;
    return NETKIT_OK;
}

NETKIT_API int netkit_udp_open(netkit_loop *loop, const netkit_udp_desc *desc, netkit_udp *out) {
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (desc == NULL || desc->recv_size > 65535 || desc->send_max > INT32_MAX ||
        desc->ext_size > INT32_MAX || desc->recv_buffer > INT32_MAX ||
        desc->send_buffer > INT32_MAX) {
        return NETKIT_E_INVALID;
    }
    nki_udp *u;
    uintptr_t socket;
    uint32_t caps;
    error = nki_dgrams_create(loop);
    if (error == NETKIT_OK) {
        error = nki_udp_socket(loop, desc, &socket, &caps);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_udp_create(loop, desc, socket, caps, &u);
    if (error != NETKIT_OK) {
        if (desc->socket.value == 0) {
            loop->driver->discard(loop, socket, false);
        }
        return error;
    }
    if (out != NULL) {
        *out = nki_udp_handle(u);
    }
    return NETKIT_OK;
}

/* ---- src/loop/watch.c ---- */
/* Watches: readiness of descriptors that belong to somebody else. They are never closed here. */

static int nki_watch_find(netkit_loop *loop, netkit_watch watch, nki_watch **out) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    *out = (nki_watch *)nki_slots_find(&loop->sources, watch.id, NKI_KIND_WATCH);
    return *out == NULL ? NETKIT_E_STALE : NETKIT_OK;
}

static bool nki_watch_events_valid(uint32_t events) {
    const uint32_t known = NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_PRIORITY |
                           NETKIT_POLL_PEER_END | NETKIT_POLL_EDGE;
    return (events & ~known) == 0;
}

NETKIT_API int netkit_watch_start(netkit_loop *loop, netkit_watch *out, uintptr_t native,
                                  uint32_t events, netkit_watch_fn fn, void *user) {
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if ((fn == NULL && !loop->desc.pull) || !nki_watch_events_valid(events)) {
        return NETKIT_E_INVALID;
    }
    void *object;
    error = nki_source_take(loop, NKI_KIND_WATCH, native, &object);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_watch *w = (nki_watch *)object;
    w->fn = fn;
    w->user = user;
    w->events = events;
    error = loop->driver->watch(loop, &w->source, events, true);
    if (error != NETKIT_OK) {
        nki_source_undo(loop, &w->source);
        return error;
    }
    if (out != NULL) {
        out->id = w->source.id;
    }
    return NETKIT_OK;
}

NETKIT_API int netkit_watch_set(netkit_loop *loop, netkit_watch watch, uint32_t events) {
    nki_watch *w;
    int error = nki_watch_find(loop, watch, &w);
    if (error != NETKIT_OK || !nki_watch_events_valid(events)) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    error = loop->driver->watch(loop, &w->source, events, false);
    if (error == NETKIT_OK) {
        w->events = events;
        w->source.ready = (uint16_t)(w->source.ready & events);
    }
    return error;
}

static void nki_watch_stop(netkit_loop *loop, nki_watch *w) {
    loop->driver->unwatch(loop, &w->source);
    nki_bury(loop, &w->source);
}

NETKIT_API int netkit_watch_stop(netkit_loop *loop, netkit_watch watch) {
    nki_watch *w;
    int error = nki_watch_find(loop, watch, &w);
    if (error == NETKIT_OK) {
        nki_watch_stop(loop, w);
    }
    return error;
}

NETKIT_API int netkit_watch_set_referenced(netkit_loop *loop, netkit_watch watch, bool referenced) {
    nki_watch *w;
    int error = nki_watch_find(loop, watch, &w);
    return error != NETKIT_OK ? error : nki_set_referenced(loop, &w->source, referenced);
}

static void nki_watch_step(netkit_loop *loop, nki_watch *w) {
    /* What was seen before the last netkit_watch_set may not be wanted any more. */
    uint32_t mask = w->events == 0
                        ? 0u
                        : w->events | NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP | NETKIT_POLL_PEER_END;
    uint32_t events = w->source.ready & mask;
    netkit_watch handle;
    handle.id = w->source.id;
    w->source.ready = 0;
    if (events == 0) {
        return;
    }
    if (w->fn == NULL) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_WATCH, w, w->user);
        ev->watch = handle;
        ev->poll_events = events;
        return;
    }
    uint64_t started = nki_call_begin(loop);
    w->fn(loop, handle, events, w->user);
    nki_call_end(loop, started);
}

/* ---- src/loop/timer.c ---- */
/* Timers of users: handles over the pure queue of src/base/timers.c. Keeps I7. */

enum {
    NKI_TIMER_SIZE_MAX = 32
};

NKI_STATIC_ASSERT(timer_size, sizeof(nki_timer) <= NKI_TIMER_SIZE_MAX);

/* A free slot does not write to what the queue still reads, see nki_timer_node. */
NKI_STATIC_ASSERT(timer_lasts, offsetof(nki_timer, node.at) >= sizeof(nki_slot));

static nki_timer *nki_timer_of_node(nki_timer_node *node) {
    return (nki_timer *)(void *)((char *)node - offsetof(nki_timer, node));
}

static nki_timer_call *nki_timer_call_of(const netkit_loop *loop, const nki_timer *t) {
    return (nki_timer_call *)nki_slots_beside(&loop->timer_slots, nki_id_slot(t->id));
}

static NKI_HOT int nki_timer_find(netkit_loop *loop, netkit_timer timer, nki_timer **out) {
    int error = nki_enter_now(loop);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    *out = (nki_timer *)nki_slots_find(&loop->timer_slots, timer.id, NKI_KIND_TIMER);
    return NKI_LIKELY(*out != NULL) ? NETKIT_OK : NETKIT_E_STALE;
}

/* A fresh clock, not the turn's: relative to a time that is already over a timer would come
 * early. */
static uint64_t nki_timer_due(netkit_loop *loop, uint64_t delay_us) {
    const uint64_t delay_max = (uint64_t)1 << 62;
    uint64_t delay = delay_us > delay_max / NKI_NS_PER_US ? delay_max : delay_us * NKI_NS_PER_US;
    uint64_t now = loop->driver->now(loop);
    return now > NKI_NEVER - 1 - delay ? NKI_NEVER - 1 : now + delay;
}

NETKIT_API int netkit_timer_start(netkit_loop *loop, netkit_timer *out, uint64_t delay_us,
                                  uint64_t period_us, netkit_timer_fn fn, void *user) {
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (fn == NULL && !loop->desc.pull) {
        return NETKIT_E_INVALID;
    }
    if (loop->is_destroying) {
        return NETKIT_E_CLOSED;
    }
    void *object;
    error = nki_slots_take(&loop->timer_slots, NKI_KIND_TIMER, &object);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_timer *t = (nki_timer *)object;
    t->node.kind = NKI_KIND_TIMER;
    t->node.is_lasting = 1; /* slots stay with the loop */
    nki_timer_call *call = nki_timer_call_of(loop, t);
    call->fn = fn;
    call->user = user;
    call->period_ns =
        period_us > (UINT64_MAX >> 2) / NKI_NS_PER_US ? UINT64_MAX >> 2 : period_us * NKI_NS_PER_US;
    error = nki_timers_start(&loop->timers, &t->node, nki_timer_due(loop, delay_us));
    if (error != NETKIT_OK) {
        nki_slots_give(&loop->timer_slots, t);
        return error;
    }
    loop->references++;
    if (out != NULL) {
        out->id = t->id;
    }
    return NETKIT_OK;
}

NETKIT_API int netkit_timer_restart(netkit_loop *loop, netkit_timer timer, uint64_t delay_us) {
    nki_timer *t;
    int error = nki_timer_find(loop, timer, &t);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_timers_restart(&loop->timers, &t->node, nki_timer_due(loop, delay_us));
    return NETKIT_OK;
}

static void nki_timer_free(netkit_loop *loop, nki_timer *t) {
    nki_timers_stop(&loop->timers, &t->node);
    if (t->node.mark == 0) {
        loop->references--;
    }
    nki_slots_give(&loop->timer_slots, t);
}

NETKIT_API int netkit_timer_stop(netkit_loop *loop, netkit_timer timer) {
    nki_timer *t;
    int error = nki_timer_find(loop, timer, &t);
    if (error == NETKIT_OK) {
        nki_timer_free(loop, t);
    }
    return error;
}

NETKIT_API int netkit_timer_remaining(netkit_loop *loop, netkit_timer timer, uint64_t *out_us) {
    nki_timer *t;
    nki_no_answer(out_us, sizeof *out_us);
    int error = nki_timer_find(loop, timer, &t);
    if (error != NETKIT_OK || out_us == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    uint64_t now = loop->driver->now(loop);
    uint64_t left = t->node.due_ns == NKI_NEVER || t->node.due_ns <= now ? 0 : t->node.due_ns - now;
    *out_us = left / NKI_NS_PER_US + (left % NKI_NS_PER_US != 0);
    return NETKIT_OK;
}

NETKIT_API int netkit_timer_set_referenced(netkit_loop *loop, netkit_timer timer, bool referenced) {
    nki_timer *t;
    int error = nki_timer_find(loop, timer, &t);
    if (error == NETKIT_OK && referenced == (t->node.mark != 0)) {
        t->node.mark = referenced ? 0 : 1;
        loop->references = referenced ? loop->references + 1 : loop->references - 1;
    }
    return error;
}

/* After its callback: a one-shot that was not restarted is over. */
static void nki_timer_after(netkit_loop *loop, nki_timer *t) {
    if (t->node.due_ns == NKI_NEVER) {
        nki_timer_free(loop, t);
    }
}

/* The next time of a repeating timer keeps the phase and skips what was missed. */
static uint64_t nki_timer_next_due(const netkit_loop *loop, uint64_t period_ns, uint64_t was_due) {
    uint64_t missed = (loop->turn_ns - was_due) / period_ns;
    uint64_t due = was_due + (missed + 1) * period_ns;
    return due < was_due ? NKI_NEVER - 1 : due;
}

static void nki_timer_fire(netkit_loop *loop, nki_timer *t) {
    netkit_timer handle;
    handle.id = t->id;
    nki_timer_call *call = nki_timer_call_of(loop, t);
    uint64_t due = NKI_NEVER; /* keeps its place for a restart */
    if (call->period_ns != 0) {
        due = nki_timer_next_due(loop, call->period_ns, t->node.due_ns);
    }
    nki_timers_restart(&loop->timers, &t->node, due);
    if (call->fn == NULL) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_TIMER, t, call->user);
        ev->timer = handle;
        return;
    }
    uint64_t started = nki_call_begin(loop);
    call->fn(loop, handle, call->user);
    nki_call_end(loop, started);
    /* The slot may be another timer's by now. */
    t = (nki_timer *)nki_slots_find(&loop->timer_slots, handle.id, NKI_KIND_TIMER);
    if (t != NULL) {
        nki_timer_after(loop, t);
    }
}

/* ---- src/loop/turn.c ---- */
/* One turn: wait, serve what is ready, posts, timers, flush, ends.
 *
 * A turn is a row of small steps with at most one user event each, and its place is kept in the
 * loop, so it can stop after any step, for a puller or a game's budget, and go on later. */

/* Something to do without waiting. */
static NKI_OUTLINE bool nki_has_work(const netkit_loop *loop) {
    return loop->phase != NKI_TURN_NONE || loop->ready.first != NULL || loop->later.first != NULL ||
           loop->dirty.first != NULL || loop->dead.first != NULL || loop->releases != NULL ||
           loop->udp_dirty != NULL || loop->pulled.type != NETKIT_EVENT_NONE ||
           nki_atomic_load(&loop->wake_pending) != 0 || !nki_posts_is_empty(&loop->posts);
}

/* Nanoseconds until the first timer, NKI_NEVER without one. */
static uint64_t nki_timer_wait(netkit_loop *loop) {
    const nki_timer_node *first = nki_timers_first(&loop->timers);
    if (first == NULL || first->due_ns == NKI_NEVER) {
        return NKI_NEVER;
    }
    uint64_t now = loop->driver->now(loop);
    return first->due_ns <= now ? 0 : first->due_ns - now;
}

/* Something to do now, due timers too. */
static bool nki_wants_turn(netkit_loop *loop) {
    return nki_has_work(loop) || nki_timer_wait(loop) == 0;
}

/* Look without blocking for desc.spin_us first: saves the wake-up at the price of a busy core. */
static int nki_wait_spinning(netkit_loop *loop, uint64_t timeout_ns) {
    uint64_t spin_ns = (uint64_t)loop->desc.spin_us * NKI_NS_PER_US;
    uint64_t start = loop->driver->now(loop);
    uint64_t spent = 0;
    while (spent < spin_ns && spent < timeout_ns) {
        int count = loop->driver->wait(loop, 0);
        if (count != 0) {
            return count;
        }
        spent = loop->driver->now(loop) - start;
    }
    return loop->driver->wait(loop, timeout_ns > spent ? timeout_ns - spent : 0);
}

static void nki_turn_wait(netkit_loop *loop, uint64_t timeout_ns) {
    bool is_over = loop->is_run && (loop->references == 0 || nki_atomic_load(&loop->stop) != 0);
    if (is_over || nki_has_work(loop)) {
        timeout_ns = 0;
    } else if (timeout_ns != 0) {
        uint64_t timer_ns = nki_timer_wait(loop);
        timeout_ns = NKI_MIN(timeout_ns, timer_ns);
    }
    int count = timeout_ns != 0 && loop->desc.spin_us != 0 ? nki_wait_spinning(loop, timeout_ns)
                                                           : loop->driver->wait(loop, timeout_ns);
    loop->wait_failures = count < 0 ? loop->wait_failures + 1 : 0;
    if (count < 0) {
        loop->wait_error = count;
        nki_log(loop, NETKIT_LOG_ERROR, NETKIT_LOGID_OS_ERROR, "waiting for events failed",
                loop->driver->os_code());
    }
    nki_refresh_time(loop);
}

static NKI_OUTLINE void nki_turn_begin(netkit_loop *loop, uint64_t timeout_ns) {
    if (loop->desc.before_turn != NULL) {
        uint64_t started = nki_call_begin(loop);
        loop->desc.before_turn(loop, loop->desc.user);
        nki_call_end(loop, started);
    }
    nki_flush_dirty(loop); /* what was queued between turns must not wait for the wait */
    nki_queue_splice(&loop->ready, &loop->later);
    nki_keeper_reap(loop);
    nki_turn_wait(loop, timeout_ns);
    loop->turns++;
    loop->timers_fired = 0;
    loop->posts_run = 0;
    loop->phase = NKI_TURN_READY;
}

static void nki_turn_end(netkit_loop *loop) {
    nki_flush_dirty(loop);
    nki_free_graves(loop);
    loop->reserved = NULL; /* of a callback that has not used it */
    loop->phase = NKI_TURN_NONE;
    if (loop->desc.pull) {
        nki_commit(loop);
    }
    if (loop->desc.after_turn != NULL) {
        uint64_t started = nki_call_begin(loop);
        loop->desc.after_turn(loop, loop->desc.user);
        nki_call_end(loop, started);
    }
}

static void nki_step_other(netkit_loop *loop, nki_source *source) {
    switch (nki_id_kind(source->id)) {
    case NKI_KIND_LISTENER: nki_listener_step(loop, (nki_listener *)(void *)source); break;
    case NKI_KIND_WATCH: nki_watch_step(loop, (nki_watch *)(void *)source); break;
    case NKI_KIND_UDP: nki_udp_step(loop, (nki_udp *)(void *)source); break;
    default: /* buried while it was in this list: now its slot can go */
        source->flags |= NKI_S_QUEUED;
        nki_queue_push(&loop->graves, source);
        break;
    }
}

/* Serve one ready source. */
static NKI_HOT bool nki_step_ready(netkit_loop *loop) {
    if (NKI_UNLIKELY(loop->udp_batch != NULL)) {
        nki_udp_deliver(loop); /* first: its memory is there once */
        return true;
    }
    nki_source *source = loop->driver->next(loop);
    if (source == NULL) {
        source = nki_queue_pop(&loop->ready);
        if (source == NULL) {
            return false;
        }
        source->flags = (uint8_t)(source->flags & ~NKI_S_QUEUED);
    }
    if (NKI_LIKELY(nki_id_kind(source->id) == NKI_KIND_CONN)) {
        nki_conn_step(loop, (nki_conn *)(void *)source);
    } else {
        nki_step_other(loop, source);
    }
    return true;
}

/* Run one post. The wake flag is cleared before the queue is looked at: a post that comes later
 * wakes anew, one that came before is seen. */
static bool nki_step_post(netkit_loop *loop) {
    netkit_post_fn fn;
    void *user;
    if (loop->posts_run == 0 && nki_atomic_load(&loop->wake_pending) != 0) {
        (void)nki_atomic_exchange(&loop->wake_pending, 0);
    }
    if (loop->posts_run >= loop->desc.post_budget || !nki_posts_pop(&loop->posts, &fn, &user)) {
        return false;
    }
    loop->posts_run++;
    uint64_t started = nki_call_begin(loop);
    fn(loop, loop->is_destroying ? NETKIT_E_CANCELLED : NETKIT_OK, user);
    nki_call_end(loop, started);
    return true;
}

/* Fire one timer. Those started in this phase have later order numbers and wait for the next
 * turn, else a timer of 0 us that starts itself again would keep the loop from its sockets. */
static bool nki_step_timer(netkit_loop *loop) {
    nki_timer_node *node = nki_timers_first(&loop->timers);
    if (node == NULL || node->due_ns > loop->turn_ns || node->order >= loop->timer_order ||
        loop->timers_fired >= loop->desc.timer_budget) {
        return false;
    }
    loop->timers_fired++;
    if (node->kind == NKI_KIND_TIMER) {
        nki_timer_fire(loop, nki_timer_of_node(node));
    } else if (node->kind == NKI_KIND_CONN) {
        nki_cold *cold = (nki_cold *)(void *)((char *)node - offsetof(nki_cold, timer));
        nki_timers_stop(&loop->timers, node);
        nki_conn_timer_fired(loop, cold->conn);
    } else if (node->kind == NKI_KIND_UDP) {
        nki_timers_restart(&loop->timers, node, NKI_NEVER);
        nki_udp_timer_fired(loop, nki_udp_of_node(node));
    } else {
        nki_listener *l = (nki_listener *)(void *)((char *)node - offsetof(nki_listener, timer));
        nki_timers_restart(&loop->timers, node, NKI_NEVER);
        nki_listener_timer_fired(loop, l);
    }
    return true;
}

static bool nki_step_close(netkit_loop *loop) {
    if (nki_release_next(loop)) {
        return true;
    }
    if (loop->dead.first == NULL) {
        return false;
    }
    nki_conn_bury_step(loop, loop->dead.first);
    return true;
}

/* The next piece of the turn. Returns false when the turn is over. */
static NKI_OUTLINE bool nki_turn_step(netkit_loop *loop) {
    switch ((nki_turn_phase)loop->phase) {
    case NKI_TURN_READY:
        if (!nki_step_ready(loop)) {
            loop->phase = NKI_TURN_POSTS;
        }
        return true;
    case NKI_TURN_POSTS:
        if (!nki_step_post(loop)) {
            loop->timer_order = loop->timers.order;
            loop->phase = NKI_TURN_TIMERS;
        }
        return true;
    case NKI_TURN_TIMERS:
        if (!nki_step_timer(loop)) {
            nki_flush_dirty(loop);
            loop->phase = NKI_TURN_CLOSES;
        }
        return true;
    case NKI_TURN_CLOSES:
        if (!nki_step_close(loop)) {
            nki_turn_end(loop);
        }
        return true;
    case NKI_TURN_NONE: break;
    }
    return false;
}

/* All that is left of the turn, where nothing can stop it on the way. */
static void nki_turn_finish(netkit_loop *loop) {
    if (loop->phase == NKI_TURN_READY) {
        while (nki_step_ready(loop)) {
        }
    }
    while (nki_turn_step(loop)) {
    }
}

/* ---- pulling ---- */

/* The puller is done with the event that was out: what follows a callback's return. */
static NKI_OUTLINE void nki_pulled_done(netkit_loop *loop) {
    netkit_event_type type = loop->pulled.type;
    void *object = loop->pulled_object;
    loop->pulled.type = NETKIT_EVENT_NONE;
    switch (type) {
    case NETKIT_EVENT_DATA: nki_conn_after_data(loop, (nki_conn *)object, loop->pulled_used); break;
    case NETKIT_EVENT_OPEN:
    case NETKIT_EVENT_DRAIN:
    case NETKIT_EVENT_EOF: nki_conn_after(loop, (nki_conn *)object); break;
    case NETKIT_EVENT_CLOSE: nki_conn_dispose(loop, (nki_conn *)object); break;
    case NETKIT_EVENT_LISTENER_CLOSE: nki_listener_dispose(loop, (nki_listener *)object); break;
    case NETKIT_EVENT_TIMER:
        if (nki_slots_find(&loop->timer_slots, loop->pulled.timer.id, NKI_KIND_TIMER) != NULL) {
            nki_timer_after(loop, (nki_timer *)object);
        }
        break;
    case NETKIT_EVENT_DATAGRAM: break; /* the batch goes on by itself */
    case NETKIT_EVENT_UDP_DRAIN:
    case NETKIT_EVENT_UDP_ERROR: nki_udp_after(loop, (nki_udp *)object); break;
    case NETKIT_EVENT_UDP_CLOSE: nki_udp_dispose(loop, (nki_udp *)object); break;
    case NETKIT_EVENT_LISTENER_ERROR:
    case NETKIT_EVENT_WATCH:
    case NETKIT_EVENT_NONE: break;
    }
}

/* Steps until one hands an event out, the turn ends, or the time is up. Returns whether an event
 * is out. */
static bool nki_turn_pull(netkit_loop *loop) {
    nki_pulled_done(loop);
    while (loop->pulled.type == NETKIT_EVENT_NONE) {
        if (loop->pull_until_ns != NKI_NEVER && loop->calls != loop->pull_calls &&
            loop->driver->now(loop) >= loop->pull_until_ns) {
            return false;
        }
        if (!nki_turn_step(loop)) {
            return false;
        }
    }
    return true;
}

/* ---- src/loop/readiness.c ---- */
/* The readiness driver: the system says what is ready, and the call is made at that moment.
 *
 * Where the poller has edges a descriptor is registered once, for both directions, and never
 * again: in the steady state a message costs one wait, one recv, one send. A short read ends
 * reading without asking for EAGAIN, but only on TCP, when the whole buffer was offered and the
 * event carried nothing special: unix sockets and urgent data split reads, and epoll then stays
 * silent about the rest (measured on Linux 6.18). Without edges, what the loop does not want is
 * taken out of the poller, as a level-triggered hang-up would spin. */

#define NKI_WAKE_TOKEN UINT64_MAX

/* nki_source.driver */
enum {
    NKI_R_TO_AGAIN = 1,   /* not TCP, or an event carried more than READ and WRITE */
    NKI_R_REGISTERED = 2, /* in the poller */
    NKI_R_COUNTED = 4,    /* to AGAIN only if less came than the poller has counted */
    NKI_R_WRITES = 8      /* a udp that waits until it can be written */
};

static uint64_t nki_r_now(netkit_loop *loop) {
    const netkit_clock *clock = &loop->desc.clock;
    return clock->now_ns != NULL ? clock->now_ns(clock->user) : nki_os_now_ns();
}

static int nki_r_random(netkit_loop *loop, void *out, size_t size) {
    NKI_UNUSED(loop);
    return nki_os_random(out, size);
}

static int nki_r_open_poller(netkit_loop *loop) {
    int error = nki_poller_open(&loop->poller, loop->desc.backend, &loop->allocator);
    if (error != NETKIT_OK) {
        return error;
    }
    loop->is_arming = !loop->poller.ops->has_edge;
    error = nki_poller_wake_open(&loop->poller, &loop->wake, NKI_WAKE_TOKEN);
    if (error != NETKIT_OK) {
        nki_poller_close(&loop->poller);
    }
    return error;
}

static int nki_r_open(netkit_loop *loop) {
    size_t size = loop->desc.events_max * sizeof *loop->events;
    loop->events = (netkit_poll_event *)nki_alloc(&loop->allocator, size);
    int error = loop->events == NULL ? (int)NETKIT_E_NOMEM : nki_os_begin();
    if (error == NETKIT_OK) {
        error = nki_r_open_poller(loop);
        if (error == NETKIT_OK) {
            return NETKIT_OK;
        }
        nki_os_end();
    }
    nki_free(&loop->allocator, loop->events, size);
    return error;
}

static void nki_r_close(netkit_loop *loop) {
    nki_free(&loop->allocator, loop->events, loop->desc.events_max * sizeof *loop->events);
    nki_os_wake_close(&loop->wake);
    nki_poller_close(&loop->poller);
    nki_os_end();
}

/* The kernel's set is shared with a process that was forked off (epoll(7)): its events are the
 * parent's, and so is what is registered. */
static int nki_r_wait(netkit_loop *loop, uint64_t timeout_ns) {
    int count = NKI_UNLIKELY(loop->is_inherited)
                    ? 0
                    : loop->poller.ops->wait(&loop->poller, loop->events,
                                             (int)loop->desc.events_max, timeout_ns);
    loop->events_next = loop->events;
    loop->events_end = loop->events + NKI_MAX(count, 0);
    return count;
}

static nki_source *nki_r_next(netkit_loop *loop) {
    const uint32_t plain = NETKIT_POLL_READ | NETKIT_POLL_WRITE;
    while (loop->events_next != loop->events_end) {
        const netkit_poll_event *event = loop->events_next++;
        nki_source *source = nki_token_find(loop, event->data);
        if (NKI_LIKELY(source != NULL)) {
            if (NKI_UNLIKELY((event->events & ~plain) != 0)) {
                source->driver = (uint8_t)((source->driver | NKI_R_TO_AGAIN) & ~NKI_R_COUNTED);
            }
            source->ready = (uint16_t)(source->ready | event->events);
            return source;
        }
        if (event->data == NKI_WAKE_TOKEN) {
            nki_poller_wake_drain(&loop->poller, &loop->wake);
        }
    }
    return NULL;
}

static int nki_r_wake(netkit_loop *loop, bool is_coalesced) {
    NKI_UNUSED(is_coalesced);
    return nki_poller_wake_signal(&loop->poller, &loop->wake);
}

/* Before a foreign loop waits: where the poller itself tells the system of changes with its next
 * wait only, and asks again for what it has reported. Within a turn nobody is going to wait, and
 * what was reported may not have been served yet. */
static void nki_r_commit(netkit_loop *loop) {
    if (loop->poller.ops->commit != NULL && loop->phase == NKI_TURN_NONE) {
        loop->poller.ops->commit(&loop->poller);
        loop->is_unsubmitted = 0;
    }
}

/* Something has changed that only a wait, or that, commits. */
static void nki_r_changed(netkit_loop *loop) {
    if (loop->poller.ops->commit != NULL) {
        loop->is_unsubmitted = 1;
    }
}

static int nki_r_native(netkit_loop *loop, uintptr_t *out) {
    *out = loop->poller.native;
    return loop->poller.native == UINTPTR_MAX ? NETKIT_E_NOSYS : NETKIT_OK;
}

/* ---- descriptors ---- */

static int nki_r_register(netkit_loop *loop, nki_source *source, uint32_t events) {
    int error =
        loop->poller.ops->add(&loop->poller, source->socket, events, nki_token_new(loop, source));
    if (error == NETKIT_OK) {
        source->driver |= NKI_R_REGISTERED;
        nki_r_changed(loop);
    } else {
        source->token = 0;
    }
    return error;
}

static void nki_r_unregister(netkit_loop *loop, nki_source *source) {
    if ((source->driver & NKI_R_REGISTERED) != 0 && !loop->is_inherited) {
        (void)loop->poller.ops->remove(&loop->poller, source->socket);
        source->driver = (uint8_t)(source->driver & ~NKI_R_REGISTERED);
    }
    source->token = 0;
}

static int nki_r_attach(netkit_loop *loop, nki_source *source) {
    uint32_t events = NETKIT_POLL_READ;
    if (loop->poller.ops->has_edge) {
        events |= NETKIT_POLL_EDGE;
        if (nki_id_kind(source->id) == NKI_KIND_CONN) {
            bool is_tcp = (((nki_conn *)(void *)source)->flags & NKI_C_TCP) != 0;
            events |= NETKIT_POLL_WRITE | NETKIT_POLL_PEER_END;
            if (!is_tcp) {
                source->driver |= NKI_R_TO_AGAIN;
            } else if (loop->poller.ops->held != NULL) {
                source->driver |= NKI_R_TO_AGAIN | NKI_R_COUNTED;
            } else {
                events |= NETKIT_POLL_PRIORITY;
            }
        }
    }
    return nki_r_register(loop, source, events);
}

/* Removed before it is closed: the descriptor may be open in another process still, and then
 * the kernel would go on reporting it (epoll(7), questions and answers). */
static void nki_r_shut(netkit_loop *loop, nki_source *source, bool reset) {
    nki_r_unregister(loop, source);
    bool is_reset = reset && !loop->is_inherited; /* it would be the parent's that is reset */
    (void)(is_reset ? nki_os_reset(source->socket) : nki_os_close(source->socket));
    nki_gone(loop, source);
}

static void nki_r_discard(netkit_loop *loop, uintptr_t socket, bool reset) {
    NKI_UNUSED(loop);
    (void)(reset ? nki_os_reset(socket) : nki_os_close(socket));
}

/* Level-triggered pollers: only what is wanted is in the set. The poller makes no system call
 * for what does not change. With edges a udp alone changes: the system calls it writable after
 * every datagram that left, so that is asked for only when it matters. */
static void nki_r_arm(netkit_loop *loop, nki_source *source, uint32_t wanted) {
    bool was_writing = (source->driver & NKI_R_WRITES) != 0;
    bool is_writing = (wanted & NETKIT_POLL_WRITE) != 0;
    bool is_udp = nki_id_kind(source->id) == NKI_KIND_UDP;
    if (is_udp && loop->poller.ops->has_edge && is_writing != was_writing) {
        uint32_t events = NETKIT_POLL_READ | (wanted & NETKIT_POLL_WRITE) | NETKIT_POLL_EDGE;
        source->driver = (uint8_t)(source->driver ^ NKI_R_WRITES);
        (void)loop->poller.ops->modify(&loop->poller, source->socket, events, nki_token_of(source));
    }
    if (!loop->poller.ops->has_edge && (source->driver & NKI_R_REGISTERED) != 0) {
        uint32_t events = (wanted & NETKIT_POLL_READ) != 0 ? wanted | NETKIT_POLL_PEER_END : wanted;
        (void)loop->poller.ops->modify(&loop->poller, source->socket, events, nki_token_of(source));
        nki_r_changed(loop);
    }
}

static int nki_r_watch(netkit_loop *loop, nki_source *source, uint32_t events, bool is_new) {
    if (is_new) {
        return nki_r_register(loop, source, events);
    }
    nki_r_changed(loop);
    return loop->poller.ops->modify(&loop->poller, source->socket, events, nki_token_of(source));
}

static void nki_r_unwatch(netkit_loop *loop, nki_source *source) {
    nki_r_unregister(loop, source);
}

/* ---- streams ---- */

/* Before connecting or listening: TCP tells the peer then how much there can ever be. */
static int nki_r_buffers(uintptr_t s, const netkit_conn_options *o) {
    int error = NETKIT_OK;
    if (o->recv_buffer != 0) {
        error = nki_os_set_option(s, NETKIT_OPT_RECV_BUFFER, (int)o->recv_buffer);
    }
    if (error == NETKIT_OK && o->send_buffer != 0) {
        error = nki_os_set_option(s, NETKIT_OPT_SEND_BUFFER, (int)o->send_buffer);
    }
    return error;
}

static int nki_r_listen_one(const nki_listen_how *how, const netkit_addr *addr, uintptr_t *out,
                            netkit_unix_file *file) {
    memset(file, 0, sizeof *file);
    int error = nki_os_socket(addr->family, NETKIT_SOCK_STREAM, false, out);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_r_buffers(*out, how->options);
    if (error == NETKIT_OK) {
        error = nki_os_bind_unix(*out, addr, how->flags, how->mode, file);
    }
    if (error == NETKIT_OK) {
        error = nki_os_listen(*out, how->backlog);
    }
    if (error != NETKIT_OK) {
        nki_os_undo_unix(file);
        (void)nki_os_close(*out);
    }
    return error;
}

/* ":port" is one IPv6 socket that takes IPv4 too; where the machine has no IPv6, an IPv4 one. */
static int nki_r_listen(netkit_loop *loop, const nki_listen_how *how, uintptr_t *out,
                        netkit_unix_file *file) {
    NKI_UNUSED(loop);
    int error = nki_r_listen_one(how, how->addr, out, file);
    bool is_missing = error == NETKIT_E_NOSYS || error == NETKIT_E_ADDRNOTAVAIL;
    if (is_missing && how->addr->is_any && how->addr->family == NETKIT_AF_IPV6) {
        netkit_addr v4 = *how->addr;
        v4.family = NETKIT_AF_IPV4;
        error = nki_r_listen_one(how, &v4, out, file);
    }
    return error;
}

static int nki_r_accept(netkit_loop *loop, nki_listener *l, uintptr_t *out, netkit_addr *peer) {
    NKI_UNUSED(loop);
    int error = nki_os_accept(l->source.socket, out, peer);
    if (error == NETKIT_E_AGAIN) {
        l->source.ready = 0;
    }
    return error;
}

static int nki_r_adopt(netkit_loop *loop, uintptr_t socket, bool *is_tcp) {
    NKI_UNUSED(loop);
    netkit_addr peer;
    int error = nki_os_remote(socket, &peer);
    if (error == NETKIT_OK && nki_os_is_datagram(socket)) {
        error = NETKIT_E_INVALID;
    }
    if (error == NETKIT_OK) {
        *is_tcp = peer.family == NETKIT_AF_IPV4 || peer.family == NETKIT_AF_IPV6;
        error = nki_os_set_option(socket, NETKIT_OPT_BLOCKING, 0);
    }
    return error;
}

/* A socket to connect with. */
static int nki_r_connecting(nki_conn *c, int family, const netkit_addr *source) {
    uintptr_t s;
    int error = nki_os_socket(family, NETKIT_SOCK_STREAM, false, &s);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_r_buffers(s, &c->behaviour->options);
    if (error == NETKIT_OK && source != NULL) {
        error = nki_os_bind(s, source, 0);
    }
    if (error != NETKIT_OK) {
        (void)nki_os_close(s);
        return error;
    }
    c->source.socket = s;
    return NETKIT_OK;
}

static int nki_r_connect(netkit_loop *loop, nki_conn *c, const netkit_addr *to,
                         const netkit_addr *source) {
    NKI_UNUSED(loop);
    int error = nki_r_connecting(c, to->family, source);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_os_connect(c->source.socket, to);
    if (error != NETKIT_OK && error != NETKIT_E_AGAIN) {
        (void)nki_os_close(c->source.socket);
    }
    return error;
}

/* The error that the poller's event took out of the socket, where pollers do that. */
static NKI_COLD int nki_r_taken_error(netkit_loop *loop, nki_conn *c, int otherwise) {
    int os_code = 0;
    if (loop->poller.ops->take_error != NULL) {
        os_code = loop->poller.ops->take_error(&loop->poller, c->source.socket);
    }
    if (os_code == 0) {
        return otherwise;
    }
    return nki_os_fail(os_code);
}

static int nki_r_connected(netkit_loop *loop, nki_conn *c) {
    int error = nki_os_connect_result(c->source.socket);
    return error == NETKIT_E_NOTCONN ? nki_r_taken_error(loop, c, error) : error;
}

/* A receive that stands before an urgent byte says AGAIN while a signal is pending, whatever is
 * behind it (Linux, net/ipv4/tcp.c: "or have SIGURG pending"), and no edge tells of that again. To
 * a poll a conn that stands there is readable when there is more than the urgent byte. (That it has
 * one is no sign: it may lie behind a gap that the peer never fills.) */
static NKI_COLD bool nki_r_is_put_off(const nki_conn *c) {
#if defined(__linux__)
    int events = nki_os_wait(c->source.socket, NETKIT_POLL_READ, 0);
    return events > 0 && (events & NETKIT_POLL_READ) != 0;
#else
    NKI_UNUSED(c);
    return false;
#endif
}

/* After a read that was not just a short one of a plain conn: is there more to read? */
static NKI_OUTLINE int nki_r_read_odd(netkit_loop *loop, nki_conn *c, int n, size_t max) {
    bool is_short = n < NKI_RECV_SIZE && max == NKI_RECV_SIZE;
    bool is_all = is_short && (c->source.driver & NKI_R_TO_AGAIN) == 0;
    if (is_short && n > 0 && (c->source.driver & NKI_R_COUNTED) != 0) {
        is_all = n >= loop->poller.ops->held(&loop->poller, c->source.socket);
    }
    bool is_urgent = (c->source.ready & NETKIT_POLL_PRIORITY) != 0;
    if (NKI_UNLIKELY(n == NETKIT_E_AGAIN && is_urgent) && nki_r_is_put_off(c)) {
        nki_enqueue_later(loop, &c->source);
    } else if (is_all || n == NETKIT_E_AGAIN) {
        c->source.ready &= NETKIT_POLL_WRITE; /* what a flush that ended at its budget has set */
    }
    return n == NETKIT_E_EOF ? nki_r_taken_error(loop, c, n) : n;
}

static int nki_r_read(netkit_loop *loop, nki_conn *c, size_t max) {
    unsigned char *buffer = nki_block_data(loop->recv);
    loop->span.data = buffer;
    int n = nki_os_recv(c->source.socket, buffer, max);
    bool is_plain = n > 0 && n < NKI_RECV_SIZE && max == NKI_RECV_SIZE &&
                    (c->source.driver & NKI_R_TO_AGAIN) == 0;
    if (NKI_LIKELY(is_plain)) {
        c->source.ready &= NETKIT_POLL_WRITE; /* what a flush that ended at its budget has set */
        return n;
    }
    return nki_r_read_odd(loop, c, n, max);
}

static int nki_r_send_file(nki_conn *c) {
    const nki_chunk *chunk = c->out;
    return nki_os_send_file(c->source.socket, chunk->file - 1, chunk->offset + chunk->begin,
                            chunk->end - chunk->begin, false);
}

/* What stands before lent memory of lent_min bytes or more, or a part of it. */
static int nki_r_send_some(nki_conn *c, size_t lent_min) {
    const nki_chunk *first = c->out;
    if (NKI_UNLIKELY(first->file != 0)) {
        return nki_r_send_file(c);
    }
    const nki_batch *batch = nki_fds_of(first);
    if (NKI_UNLIKELY(batch != NULL)) {
        return nki_os_send_fds(c->source.socket, first->data, first->end, batch->fds, batch->count);
    }
    if (NKI_LIKELY(first->next == NULL && first->end > first->begin)) {
        return nki_os_send(c->source.socket, first->data + first->begin, first->end - first->begin);
    }
    netkit_span spans[NKI_SPANS_MAX];
    size_t count = nki_out_spans(c, spans, NKI_SPANS_MAX, lent_min);
    if (count == 0) {
        return 0; /* empty ones, to be taken off */
    }
    int flags = nki_out_file_follows(c, count) ? NKI_MSG_MORE : 0;
    return nki_os_sendv(c->source.socket, spans, count, flags);
}

/* Within the turn's budget, as reading: a fast peer and a long queue must not hold the others. */
static int nki_r_flush(netkit_loop *loop, nki_conn *c) {
    uint64_t sent = 0;
    while (c->out != NULL && sent < loop->desc.conn_budget) {
        int n = nki_r_send_some(c, SIZE_MAX);
        if (n < 0) {
            if (n == NETKIT_E_AGAIN) {
                c->flags |= NKI_C_STALLED;
                return NETKIT_OK;
            }
            return n;
        }
        sent += (uint64_t)n;
        nki_out_sent(loop, c, (size_t)n);
    }
    if (c->out != NULL) { /* stalled by us, and writable in the next turn */
        c->flags |= NKI_C_STALLED;
        c->source.ready = (uint16_t)(c->source.ready | NETKIT_POLL_WRITE);
        nki_enqueue_later(loop, &c->source);
    }
    return NETKIT_OK;
}

static int nki_r_send(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    NKI_UNUSED(loop);
    return nki_os_send(c->source.socket, data, len);
}

static int nki_r_file_open(uintptr_t file, uint64_t offset, uint64_t *len, uintptr_t *out) {
    int error = nki_file_range(file, offset, len);
    return error != NETKIT_OK ? error : nki_os_dup_file(file, out);
}

static int nki_r_half_close(netkit_loop *loop, nki_conn *c) {
    NKI_UNUSED(loop);
    int error = nki_os_shutdown(c->source.socket, NETKIT_SHUT_WRITE);
    return error == NETKIT_E_NOTCONN ? NETKIT_E_RESET : error;
}

/* ---- datagrams ---- */

static int nki_r_udp_setup(uintptr_t s, const nki_udp_how *how, const netkit_addr *addr) {
    int error = nki_os_set_buffers(s, how->recv_buffer, how->send_buffer);
    if (error == NETKIT_OK && how->is_shared) {
        error = nki_os_set_option(s, NETKIT_OPT_REUSE_ADDR, 1);
    }
    if (error == NETKIT_OK && addr != NULL) {
        error = nki_os_bind(s, addr, how->flags);
    }
    if (error == NETKIT_OK && how->peer != NULL) {
        error = nki_os_connect(s, how->peer);
    }
    return error;
}

static int nki_r_udp_one(const nki_udp_how *how, const netkit_addr *addr, uintptr_t *out) {
    int family = addr != NULL ? addr->family : how->peer->family;
    int error = nki_os_socket(family, NETKIT_SOCK_DGRAM, false, out);
    if (error == NETKIT_OK) {
        error = nki_r_udp_setup(*out, how, addr);
        if (error != NETKIT_OK) {
            nki_os_abandon(*out);
        }
    }
    return error;
}

static int nki_r_udp_adopt(const nki_udp_how *how, uintptr_t *out) {
    *out = how->adopted;
    int error = nki_os_is_datagram(how->adopted) ? NETKIT_OK : NETKIT_E_INVALID;
    if (error == NETKIT_OK) {
        error = nki_os_set_option(how->adopted, NETKIT_OPT_BLOCKING, 0);
    }
    return error != NETKIT_OK
               ? error
               : nki_os_set_buffers(how->adopted, how->recv_buffer, how->send_buffer);
}

static int nki_r_udp_open(netkit_loop *loop, const nki_udp_how *how, uintptr_t *out,
                          uint32_t *caps) {
    NKI_UNUSED(loop);
    const netkit_addr *addr = how->addr;
    int error =
        how->adopted != UINTPTR_MAX ? nki_r_udp_adopt(how, out) : nki_r_udp_one(how, addr, out);
    bool is_missing = error == NETKIT_E_NOSYS || error == NETKIT_E_ADDRNOTAVAIL;
    if (is_missing && addr != NULL && addr->is_any && addr->family == NETKIT_AF_IPV6) {
        netkit_addr v4 = *addr;
        v4.family = NETKIT_AF_IPV4;
        error = nki_r_udp_one(how, &v4, out);
    }
    *caps = error == NETKIT_OK ? nki_os_dgram_caps(*out) : 0;
    return error;
}

/* Fewer than asked for: there were no more, and what comes from now on is told anew; but with an
 * error among what was told, fewer may be what came before that. */
static int nki_r_udp_recv(netkit_loop *loop, nki_udp *u) {
    const nki_dgram_room *room = &u->more->room;
    int n =
        nki_os_recv_dgrams(u->source.socket, loop->dgrams->recv_scratch, loop->dgrams->in, room);
    bool is_all = n > 0 && (unsigned)n < room->count;
    if (n == NETKIT_E_AGAIN || (is_all && (u->source.driver & NKI_R_TO_AGAIN) == 0)) {
        u->source.ready = (uint16_t)(u->source.ready & ~NKI_READABLE);
        u->source.driver = (uint8_t)(u->source.driver & ~NKI_R_TO_AGAIN);
    }
    return n;
}

static int nki_r_udp_send(netkit_loop *loop, nki_udp *u, const nki_dgram_out *out, unsigned count) {
    bool is_ipv6 = (u->flags & NKI_D_IPV6) != 0;
    return nki_os_send_dgrams(u->source.socket, is_ipv6, loop->dgrams->send_scratch, out, count);
}

static int nki_r_udp_failed(netkit_loop *loop, nki_udp *u, netkit_datagram *out) {
    return nki_os_recv_failed(u->source.socket, out, loop->dgrams->report, NKI_UDP_REPORT_SIZE);
}

static int nki_r_udp_join(netkit_loop *loop, uintptr_t socket, bool is_join,
                          const netkit_addr *group, uint32_t interface_index,
                          const netkit_addr *source) {
    NKI_UNUSED(loop);
    return nki_os_join(socket, is_join, group, interface_index, source);
}

static int nki_r_local(netkit_loop *loop, uintptr_t socket, netkit_addr *out) {
    NKI_UNUSED(loop);
    return nki_os_local(socket, out);
}

static int nki_r_remote(netkit_loop *loop, uintptr_t socket, netkit_addr *out) {
    NKI_UNUSED(loop);
    return nki_os_remote(socket, out);
}

static int nki_r_set_option(netkit_loop *loop, uintptr_t socket, netkit_option option, int value) {
    NKI_UNUSED(loop);
    return nki_os_set_option(socket, option, value);
}

static int nki_r_get_option(netkit_loop *loop, uintptr_t socket, netkit_option option, int *value) {
    NKI_UNUSED(loop);
    return nki_os_get_option(socket, option, value);
}

static int nki_r_read_fds(netkit_loop *loop, nki_conn *c, size_t max, uintptr_t *fds,
                          size_t *count) {
    unsigned char *buffer = nki_block_data(loop->recv);
    loop->span.data = buffer;
    int n = nki_os_recv_fds(c->source.socket, buffer, max, fds, count);
    if (n == NETKIT_E_AGAIN) {
        c->source.ready &= NETKIT_POLL_WRITE; /* what a flush that ended at its budget has set */
    }
    return n;
}

static int nki_r_dup(netkit_loop *loop, uintptr_t native, uintptr_t *out) {
    NKI_UNUSED(loop);
    return nki_os_dup(native, out);
}

static int nki_r_credentials(netkit_loop *loop, uintptr_t socket, netkit_credentials *out) {
    NKI_UNUSED(loop);
    return nki_os_credentials(socket, out);
}

static int nki_r_unlink(netkit_loop *loop, const netkit_unix_file *file) {
    NKI_UNUSED(loop);
    return nki_os_unlink_unix(file);
}

static uint64_t nki_r_process(netkit_loop *loop) {
    NKI_UNUSED(loop);
    return nki_os_process();
}

static int nki_r_set_text(netkit_loop *loop, uintptr_t socket, netkit_option option,
                          const char *value) {
    NKI_UNUSED(loop);
    return nki_os_set_text(socket, option, value);
}

static int nki_r_get_text(netkit_loop *loop, uintptr_t socket, netkit_option option, char *text,
                          size_t size) {
    NKI_UNUSED(loop);
    return nki_os_get_text(socket, option, text, size);
}

static const nki_driver *nki_readiness_driver(void) {
    static const nki_driver driver = {
        nki_r_open,
        nki_r_close,
        nki_r_now,
        nki_r_random,
        nki_r_wait,
        nki_r_next,
        nki_r_wake,
        nki_r_native,
        nki_r_commit,
        NULL,
        nki_r_attach,
        nki_r_shut,
        nki_r_discard,
        nki_r_arm,
        nki_r_watch,
        nki_r_unwatch,
        nki_r_listen,
        nki_r_accept,
        nki_r_adopt,
        nki_r_connect,
        nki_r_connected,
        nki_r_read,
        NULL,
        nki_keep_shared,
        nki_r_flush,
        nki_r_send,
        nki_r_half_close,
        nki_r_file_open,
        nki_os_abandon_file,
        nki_r_udp_open,
        nki_r_udp_recv,
        nki_r_udp_send,
        nki_r_udp_failed,
        nki_r_udp_join,
        nki_r_local,
        nki_r_remote,
        nki_r_set_option,
        nki_r_get_option,
        nki_os_code,
        nki_r_read_fds,
        nki_r_dup,
        nki_r_credentials,
        nki_r_unlink,
        nki_r_process,
        nki_r_set_text,
        nki_r_get_text,
        nki_r_connected,
    };
    return &driver;
}

/* ---- src/uring/buffers.c ---- */
/* Provided buffers: memory the kernel picks from when bytes have come, so that a conn that is
 * silent owns none.
 *
 * A buffer is with the kernel, or spare, or holds bytes that a conn has not read (parked), or is
 * lent to a handler. The last two have an owner in their record; a count of them tells cheaply
 * whether there is anything to look after. Kernel side: io_uring_register_buf_ring(3);
 * an empty ring ends a multishot receive at once with ENOBUFS.
 *
 * The kernel takes them in turn, so all it has pass through the caches one after the other. It is
 * given no more than it needs, the others being spare: 64 at first, which stay in a processor's own
 * cache (make bench ROW=echo-4K-50c), and twice as many after a receive that found none.
 *
 * Each buffer is a block of its own, as the shared receive buffer is: one that a handler keeps goes
 * with it, and a new one takes its place, so what is kept never takes from what the kernel has.
 *
 * On request buffers are incremental (Linux 6.12): fewer ones, of which each receive takes what it
 * fills, so that the bytes of many conns lie in one. A record is of one receive then, and the
 * buffer goes back when it is full and all of it was read. Completions do not say where their bytes
 * begin: they follow each other, as the kernel fills a buffer in the order of its completions, so
 * these must be taken in that order, always. (Not so for a polling thread, which works while we
 * read: it may end a receive late for want of a place, and post another's completion before.)
 *
 * Tried and left out (Linux 6.18, loopback; make bench ROW=tried): bundles spare a bare ring a
 * quarter of its processor in bulk and a tenth with pipelined messages of 4 KiB; recv into 64 KiB
 * spares as much in bulk, and gains no less there (ROW=echo-4K-50c-16p). They were out of order in
 * some kernels. */

#if NKI_HAS_URING

enum {
    NKI_POOL_COUNT = 256, /* at most 500 conns answered at once need more, and read by recv then */
    NKI_POOL_WANTED = 64, /* with the kernel at first */
    NKI_POOL_SHARED_COUNT = 64, /* of shared ones: each holds a hundred small messages */
    NKI_POOL_SIZE = 8192,       /* who fills one reads by recv into 64 KiB instead */
    NKI_POOL_GROUP = 0,
    NKI_POOL_RECORDS = 4096 /* of shared ones: as many as a turn may have completions */
};

#define NKI_POOL_NONE UINT16_MAX
#define NKI_POOL_FREE UINT32_MAX /* as the slot of a buffer's owner: nobody */

/* What one receive has brought. */
typedef struct nki_pool_record {
    nki_block *block;
    uint32_t slot;   /* of the owner */
    uint16_t next;   /* parked behind it, or free */
    uint16_t buffer; /* the same as the record's number, unless buffers are shared */
    uint32_t begin;
    uint32_t end;
} nki_pool_record;

/* A buffer that many receives share. */
typedef struct nki_pool_share {
    nki_block *block;
    uint32_t filled;
    uint32_t records; /* of it that are held */
} nki_pool_share;

typedef struct nki_pool {
    uint32_t count; /* a power of two */
    uint32_t size;
    nki_uring_buffer *ring; /* NULL = not there */
    nki_pool_record *records;
    nki_pool_share *shares; /* NULL = each receive has a buffer for itself */
    uint32_t records_count;
    uint32_t held;   /* records in use */
    uint32_t wanted; /* buffers that the kernel is to have; not of shared ones */
    uint32_t spare;  /* that it does not have, listed in `free` */
    uint16_t tail;   /* of the ring; the kernel sees it when it is published */
    uint16_t free;   /* record of a share, or spare, or NKI_POOL_NONE */
    bool is_short;   /* a receive has found no buffer */
    bool is_sharing; /* what nki_pool_open is to make */
    bool is_broken;  /* the kernel and our count do not agree: nothing more is taken from shares */
} nki_pool;

static unsigned char *nki_pool_data(const nki_pool *p, uint16_t id) {
    return nki_block_data(p->records[id].block);
}

/* To the kernel, from nki_pool_publish on. */
static void nki_pool_place(nki_pool *p, uint16_t buffer, nki_block *block) {
    nki_uring_buffer *place = &p->ring[p->tail++ & (p->count - 1)];
    place->addr = (uint64_t)(uintptr_t)nki_block_data(block);
    place->len = p->size;
    place->id = buffer;
}

/* Back to the kernel, when the kernel has no more room there and nobody looks at it. */
static void nki_pool_place_share(nki_pool *p, uint16_t buffer) {
    nki_pool_share *share = &p->shares[buffer];
    if (share->records == 0 && share->filled == p->size) {
        share->filled = 0;
        nki_pool_place(p, buffer, share->block);
    }
}

static NKI_COLD uint16_t nki_pool_take_share(nki_pool *p, const nki_uring_cqe *cqe) {
    uint16_t buffer = (uint16_t)(cqe->flags >> 16);
    nki_pool_share *share = &p->shares[buffer];
    uint32_t len = (uint32_t)cqe->res;
    uint32_t begin = share->filled;
    bool is_full = (cqe->flags & NKI_URING_CQE_BUFFER_MORE) == 0;
    if (len > p->size - begin || is_full != (begin + len == p->size)) {
        p->is_broken = true;
    }
    if (p->is_broken) {
        return NKI_POOL_NONE;
    }
    uint16_t id = p->free;
    share->filled += len;
    if (id == NKI_POOL_NONE) {
        nki_pool_place_share(p, buffer);
        return NKI_POOL_NONE;
    }
    nki_pool_record *record = &p->records[id];
    p->free = record->next;
    share->records++;
    record->block = share->block;
    record->buffer = buffer;
    record->begin = begin;
    record->end = begin + len;
    p->held++;
    return id;
}

/* The record of what the kernel has put there. NKI_POOL_NONE, of shared buffers alone: there is
 * none left, since memory is so short that nothing can be parked elsewhere; or is_broken. */
static uint16_t nki_pool_take(nki_pool *p, const nki_uring_cqe *cqe) {
    if (NKI_UNLIKELY(p->shares != NULL)) {
        return nki_pool_take_share(p, cqe);
    }
    uint16_t buffer = (uint16_t)(cqe->flags >> 16);
    p->records[buffer].begin = 0;
    p->records[buffer].end = cqe->res > 0 ? (uint32_t)cqe->res : 0;
    p->held++;
    return buffer;
}

/* How many buffers the kernel has, those that are not shared. */
static uint32_t nki_pool_out(const nki_pool *p) {
    return p->count - p->held - p->spare;
}

static void nki_pool_give(nki_pool *p, uint16_t id) {
    nki_pool_record *record = &p->records[id];
    record->slot = NKI_POOL_FREE;
    p->held--;
    if (NKI_UNLIKELY(p->shares != NULL)) {
        record->next = p->free;
        p->free = id;
        p->shares[record->buffer].records--;
        nki_pool_place_share(p, record->buffer);
    } else if (nki_pool_out(p) > p->wanted) {
        record->next = p->free;
        p->free = id;
        p->spare++;
    } else {
        nki_pool_place(p, id, record->block);
    }
}

/* Let the kernel have what it was given, and as many buffers as are wanted. */
static void nki_pool_publish(nki_pool *p) {
    if (p->ring == NULL) {
        return;
    }
    if (NKI_UNLIKELY(p->is_short)) {
        p->wanted = NKI_MIN(p->wanted * 2, p->count);
        p->is_short = false;
    }
    while (NKI_UNLIKELY(p->spare != 0 && nki_pool_out(p) < p->wanted)) {
        uint16_t id = p->free;
        p->free = p->records[id].next;
        p->spare--;
        nki_pool_place(p, id, p->records[id].block);
    }
    nki_atomic_store(&p->ring[0].tail, p->tail);
}

static size_t nki_pool_ring_size(const nki_pool *p) {
    return p->count * sizeof(nki_uring_buffer);
}

static void nki_pool_free(nki_pool *p, const netkit_allocator *a) {
    if (p->ring != NULL) {
        (void)NKI_SYS_munmap(p->ring, nki_pool_ring_size(p));
    }
    for (uint32_t i = 0; p->records != NULL && i < p->count; i++) {
        nki_block *block = p->shares != NULL ? p->shares[i].block : p->records[i].block;
        if (block != NULL) {
            nki_block_free(block);
        }
    }
    nki_free(a, p->shares, p->count * sizeof *p->shares);
    nki_free(a, p->records, p->records_count * sizeof *p->records);
    p->ring = NULL;
    p->shares = NULL;
    p->records = NULL;
    p->held = 0;
    p->spare = 0;
    p->tail = 0;
}

static int nki_pool_register(nki_pool *p, const nki_uring *r) {
    nki_uring_buffers_reg reg;
    void *ring = NKI_SYS_mmap(nki_pool_ring_size(p), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED) {
        return errno;
    }
    p->ring = (nki_uring_buffer *)ring;
    memset(&reg, 0, sizeof reg);
    reg.addr = (uint64_t)(uintptr_t)ring;
    reg.entries = p->count;
    reg.group = NKI_POOL_GROUP;
    reg.flags = p->is_sharing ? NKI_URING_BUFFERS_SHARED : 0;
    return NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_BUFFERS, &reg, 1u) != 0 ? errno : 0;
}

/* Memory and ring, or an errno. */
static int nki_pool_make(nki_pool *p, const nki_uring *r, nki_keeper *keeper) {
    if (p->records == NULL || (p->is_sharing && p->shares == NULL)) {
        return ENOMEM;
    }
    for (uint32_t i = 0; i < p->count; i++) {
        nki_block *block = nki_block_new(keeper, p->size);
        *(p->is_sharing ? &p->shares[i].block : &p->records[i].block) = block;
        if (block == NULL) {
            return ENOMEM;
        }
    }
    int error = nki_pool_register(p, r);
    return error == 0 && p->ring == NULL ? ENOMEM : error;
}

/* No record in use: shared buffers are with the kernel, others are spare. */
static void nki_pool_fill(nki_pool *p) {
    for (uint32_t i = 0; i < p->records_count; i++) {
        p->records[i].slot = NKI_POOL_FREE;
        p->records[i].buffer = (uint16_t)i;
        p->records[i].next = (uint16_t)(i + 1);
    }
    p->records[p->records_count - 1].next = NKI_POOL_NONE;
    p->free = 0;
    for (uint32_t i = 0; p->is_sharing && i < p->count; i++) {
        nki_pool_place(p, (uint16_t)i, p->shares[i].block);
    }
    p->spare = p->is_sharing ? 0 : p->count;
    p->wanted = NKI_MIN(p->wanted, p->count);
    p->is_short = false;
}

/* Make the buffers and hand the kernel those it is to have. Returns 0 or an errno, nothing left. */
static int nki_pool_open(nki_pool *p, const nki_uring *r, nki_keeper *keeper) {
    const netkit_allocator *a = &keeper->allocator;
    p->records_count = p->is_sharing ? (uint32_t)NKI_POOL_RECORDS : p->count;
    p->records = (nki_pool_record *)nki_alloc_zero(a, p->records_count * sizeof *p->records);
    if (p->is_sharing) {
        p->shares = (nki_pool_share *)nki_alloc_zero(a, p->count * sizeof *p->shares);
    }
    int error = nki_pool_make(p, r, keeper);
    if (error != 0 || p->ring == NULL) {
        nki_pool_free(p, a);
        return error != 0 ? error : ENOMEM;
    }
    nki_pool_fill(p);
    nki_pool_publish(p);
    return 0;
}

/* The user takes this buffer's memory for good; another one comes into its place. */
static nki_block *nki_pool_swap(nki_pool *p, uint16_t id, nki_keeper *keeper) {
    nki_block *fresh = nki_block_new(keeper, p->size);
    nki_block *kept = p->records[id].block;
    if (fresh == NULL) {
        return NULL;
    }
    p->records[id].block = fresh;
    return kept;
}

#endif /* NKI_HAS_URING */

/* ---- src/uring/files.c ---- */
/* Files the ring knows by number, so that an operation need not look its descriptor up: on request
 * only, as it costs a conn two calls, and spares a bare ring 0.7 to 0.9 % of a small message, but
 * netkit's nothing that shows (0.98 to 1.01 of the rate, Linux 6.18, loopback; make bench
 * ROW=tried).
 *
 * The table holds each file as a descriptor does: close(2) ends a connection only when its place
 * here is empty, too. Before Linux 6.13 a place that was emptied kept its file until all operations
 * on other files that were older had ended, which those that go on never do; so no table there. */

#if NKI_HAS_URING

typedef struct nki_files {
    int32_t *fds; /* of each slot, -1 = none; NULL = no table */
    uint32_t count;
} nki_files;

static void nki_files_free(nki_files *f, const netkit_allocator *a) {
    nki_free(a, f->fds, f->count * sizeof *f->fds);
    f->fds = NULL;
    f->count = 0;
}

/* Hand the table to a ring that has none. Returns 0, or an errno and there is no table any more. */
static int nki_files_register(nki_files *f, const nki_uring *r, const netkit_allocator *a) {
    if (f->fds == NULL ||
        NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_FILES, f->fds, f->count) == 0) {
        return 0;
    }
    int os_code = errno;
    nki_files_free(f, a);
    return os_code;
}

/* Before its ring is closed: that, and with it the table, ends only with the last descriptor of it,
 * which a forked child may have. False: there is none, or the ring is another thread's. */
static bool nki_files_withdraw(const nki_files *f, const nki_uring *r) {
    return f->fds != NULL &&
           NKI_SYS_io_uring_register(r->fd, NKI_URING_UNREGISTER_FILES, NULL, 0u) == 0;
}

/* The kernel takes no more places than the process may have descriptors: EMFILE. */
static void nki_files_open(nki_files *f, const nki_uring *r, uint32_t count,
                           const netkit_allocator *a) {
    int os_code = EMFILE;
    for (; count != 0 && os_code == EMFILE; count /= 2) {
        f->fds = (int32_t *)nki_alloc(a, count * sizeof *f->fds);
        if (f->fds == NULL) {
            return;
        }
        f->count = count;
        memset(f->fds, 0xFF, count * sizeof *f->fds);
        os_code = nki_files_register(f, r, a);
    }
}

static bool nki_files_has(const nki_files *f, uint32_t slot) {
    return slot < f->count && f->fds[slot] >= 0;
}

static bool nki_files_set(const nki_files *f, const nki_uring *r, uint32_t slot, int32_t fd) {
    nki_uring_update update;
    f->fds[slot] = fd;
    update.offset = slot;
    update.reserved = 0;
    update.data = (uint64_t)(uintptr_t)&f->fds[slot];
    return NKI_SYS_io_uring_register(r->fd, NKI_URING_UPDATE_FILES, &update, 1u) == 1;
}

static void nki_files_add(const nki_files *f, const nki_uring *r, uint32_t slot, int32_t fd) {
    if (slot < f->count && !nki_files_set(f, r, slot, fd)) {
        f->fds[slot] = -1;
    }
}

/* Before its descriptor is closed. A place that cannot be emptied holds the file until another one
 * takes it, or the ring ends; the peer is told at least. */
static void nki_files_drop(const nki_files *f, const nki_uring *r, uint32_t slot) {
    if (nki_files_has(f, slot)) {
        int fd = f->fds[slot];
        if (r->fd >= 0 && !nki_files_set(f, r, slot, -1)) {
            (void)NKI_SYS_shutdown(fd, SHUT_RDWR);
        }
    }
}

#endif /* NKI_HAS_URING */

/* ---- src/uring/shares.c ---- */
/* Whether incremental buffers work here: a trial at creation, for who asks for them, since kernels
 * have had them wrong, in ways that no version tells (axboe/liburing#1433). Six messages through
 * two buffers, on a small ring of its own. */

#if NKI_HAS_URING

enum {
    NKI_TRIAL_SIZE = 64, /* of a buffer */
    NKI_TRIAL_LEN = 20,
    NKI_TRIAL_MESSAGES = 6
};

typedef struct nki_trial {
    nki_uring ring;
    nki_pool pool;
    uintptr_t ends[2];
    unsigned char memory[2][NKI_TRIAL_SIZE];
    uint32_t got;
} nki_trial;

/* The n-th byte has come where it should: behind the one before it. */
static bool nki_trial_check(const nki_trial *t, const nki_uring_cqe *cqe) {
    const uint32_t buffer = t->got / NKI_TRIAL_SIZE;
    const uint32_t begin = t->got % NKI_TRIAL_SIZE;
    bool is_full = cqe->res > 0 && begin + (uint32_t)cqe->res == NKI_TRIAL_SIZE;
    bool is_right = cqe->res > 0 && begin + (uint32_t)cqe->res <= NKI_TRIAL_SIZE &&
                    (cqe->flags & NKI_URING_CQE_BUFFER) != 0 && cqe->flags >> 16 == buffer &&
                    ((cqe->flags & NKI_URING_CQE_BUFFER_MORE) == 0) == is_full;
    for (uint32_t i = 0; is_right && i < (uint32_t)cqe->res; i++) {
        is_right = t->memory[buffer][begin + i] == (unsigned char)(t->got + i + 1);
    }
    return is_right;
}

static bool nki_trial_take(nki_trial *t, uint32_t wanted) {
    nki_uring *r = &t->ring;
    for (int i = 0; t->got < wanted && i < NKI_TRIAL_MESSAGES; i++) {
        if (nki_uring_enter(r, 10 * (uint64_t)NKI_NS_PER_MS) != 0) {
            return false;
        }
        while (nki_uring_unread(r) != 0) {
            const nki_uring_cqe *cqe = &r->cqes[*r->cq_head & r->cq_mask];
            if (!nki_trial_check(t, cqe)) {
                return false;
            }
            t->got += (uint32_t)cqe->res;
            nki_atomic_store(r->cq_head, *r->cq_head + 1);
        }
    }
    return t->got == wanted;
}

static bool nki_trial_talk(nki_trial *t) {
    unsigned char message[NKI_TRIAL_LEN];
    for (uint32_t n = 0; n < NKI_TRIAL_MESSAGES; n++) {
        for (uint32_t i = 0; i < NKI_TRIAL_LEN; i++) {
            message[i] = (unsigned char)(n * NKI_TRIAL_LEN + i + 1);
        }
        if (nki_os_send(t->ends[0], message, sizeof message) != NKI_TRIAL_LEN ||
            !nki_trial_take(t, (n + 1) * NKI_TRIAL_LEN)) {
            return false;
        }
    }
    return true;
}

static bool nki_trial_begin(nki_trial *t) {
    t->pool.count = 2;
    t->pool.is_sharing = true;
    if (nki_uring_enable(&t->ring) != 0 || nki_pool_register(&t->pool, &t->ring) != 0) {
        return false;
    }
    for (uint16_t i = 0; i < 2; i++) {
        t->pool.ring[i].addr = (uint64_t)(uintptr_t)t->memory[i];
        t->pool.ring[i].len = NKI_TRIAL_SIZE;
        t->pool.ring[i].id = i;
    }
    t->pool.tail = 2;
    nki_pool_publish(&t->pool);
    nki_uring_sqe *sqe = nki_uring_take(&t->ring);
    if (sqe != NULL) {
        sqe->opcode = NKI_URING_RECV;
        sqe->flags = NKI_URING_SQE_BUFFER_SELECT;
        sqe->ioprio = NKI_SYS_io_uring_multishot(NKI_URING_RECV_MULTISHOT);
        sqe->fd = nki_os_fd(t->ends[1]);
        sqe->buffer_group = NKI_POOL_GROUP;
    }
    return sqe != NULL;
}

static bool nki_shares_work(void) {
    nki_trial t;
    nki_uring_wish wish;
    const char *where;
    memset(&t, 0, sizeof t);
    memset(&wish, 0, sizeof wish);
    wish.is_small = true;
    if (nki_uring_open(&t.ring, &wish, &where) != 0) {
        return false;
    }
    bool is_right = nki_os_pair(NETKIT_SOCK_STREAM, false, t.ends) == NETKIT_OK;
    if (is_right) {
        is_right = nki_trial_begin(&t) && nki_trial_talk(&t);
        nki_os_abandon(t.ends[0]);
        nki_os_abandon(t.ends[1]);
    }
    nki_uring_close(&t.ring);
    if (t.pool.ring != NULL) {
        (void)NKI_SYS_munmap(t.pool.ring, nki_pool_ring_size(&t.pool));
    }
    return is_right;
}

#endif /* NKI_HAS_URING */

/* ---- src/uring/state.h ---- */
/* The ring driver's own things. */

#if NKI_HAS_URING

/* Kinds of operations: the low half of the eight bits between token and slot in user_data; the
 * upper half counts polls, since a poll may be given up before its end has come. */
enum {
    NKI_U_RECV = 0,
    NKI_U_SEND = 1,
    NKI_U_ACCEPT = 2,
    NKI_U_POLL = 3,
    NKI_U_CONNECT = 4
};

#define NKI_U_BIT(op) ((uint8_t)(1u << (op)))
#define NKI_U_WAKE UINT64_MAX                /* user_data of the poll for wakes */
#define NKI_U_IGNORED ((uint64_t)0x00FFFFFF) /* of what nobody asks about: a slot nobody has */

/* nki_u_slot.want: what is to be begun at the next chance. */
enum {
    NKI_U_WANT_INPUT = 1, /* hear of bytes, connections, or what a watch asks for */
    NKI_U_WANT_SEND = 2,
    NKI_U_PENDING = 128 /* in the list of those who want */
};

/* nki_u_slot.state */
enum {
    NKI_U_CLOSING = 1,      /* shut: gone when nothing is busy */
    NKI_U_RESET = 2,        /* and then closed with a reset */
    NKI_U_EOF = 4,          /* the end has come, and waits behind what is parked */
    NKI_U_ENDED = 8,        /* and has been read: only an error can follow */
    NKI_U_LENDING = 16,     /* a zero-copy send is done but for the release of its memory */
    NKI_U_TURNED_AWAY = 32, /* its receive is being cancelled */
    NKI_U_POLLED = 64,      /* never by a multishot receive */
    NKI_U_COPIED = 128,     /* no zero-copy sends: the kernel copied, or has refused */
    NKI_U_ROOM = 256,       /* there is room to send: the poll for that is to be cancelled */
    NKI_U_DEAF = 512,    /* a watch that is told of a peer's end alone, and does not ask for it */
    NKI_U_DIALLED = 1024 /* the operation that connects has ended, and `error` says how */
};

/* Bytes taken out of the buffers, or accepted sockets, that wait: first in, first out. */
typedef struct nki_u_blob {
    size_t begin;
    size_t end;
    size_t capacity;
} nki_u_blob;

/* Beside each slot of the loop, so that conns stay small. */
typedef struct nki_u_slot {
    uint32_t next; /* who wants: the slot behind this one */
    uint8_t want;
    uint8_t busy;    /* operations in flight, NKI_U_BIT of each */
    uint8_t polls;   /* counted, 4 bits */
    bool is_lending; /* the send in flight, or the last one, is a zero-copy one */
    uint16_t state;
    uint16_t first; /* buffers that are parked */
    uint16_t last;
    uint16_t error;      /* errno that reading, accepting or connecting will say, 0 = none */
    uint16_t send_error; /* and sending */
    uint32_t events;     /* of a watch */
    uint32_t bulk;       /* reads that go past the buffers because the last ones were large */
    uint32_t turn;       /* of the loop, in which */
    uint32_t taken;      /* bytes have come in by completions */
    int32_t sent;        /* what a zero-copy send has said, whose memory is still out */
    uint64_t owed;       /* a poll that the ring, being full, has not been told to cancel; or 0 */
    nki_u_blob *blob;    /* older than what is parked; while connecting, the address */
} nki_u_slot;

NKI_STATIC_ASSERT(u_slot_size, sizeof(nki_u_slot) <= 64); /* with the conn: 192 bytes */

/* A datagram in a buffer: its head, room for the sender, room for control messages, its bytes. */
enum {
    NKI_U_NAME_SIZE = sizeof(struct sockaddr_storage),
    NKI_U_CAME_SIZE = sizeof(nki_uring_came) + NKI_U_NAME_SIZE + NKI_DGRAM_CONTROL
};

typedef struct nki_u {
    nki_uring ring;
    nki_pool pool;
    nki_files files;
    nki_u_slot **slabs;
    uint32_t slabs_count;
    uint32_t want_first; /* slots that want, NKI_NO_SLOT = none */
    uint32_t want_last;
    uint32_t next; /* completions of this turn */
    uint32_t end;
    uint32_t batch;        /* how many they are */
    uint32_t reads;        /* large ones by calls in this turn */
    uint32_t reads_max;    /* after so many the other completions are left to the next one */
    uint32_t sends;        /* in flight */
    uint32_t begun;        /* up to here the ring holds receives, polls and connects */
    uint16_t lent;         /* buffers that a handler has, the first, or NKI_POOL_NONE */
    nki_u_blob *lent_blob; /* or blob */
    nki_u_slot *reading;   /* whose bytes a handler has, the rest of them still being parked */
    int message_fd;        /* the ring's, the same number with each ring; -1: no messages to it */
    bool is_wake_armed;
    bool is_lost; /* the ring failed while the loop was being destroyed, and is closed */
    bool has_recv_multishot;
    bool has_accept_multishot;
    bool has_skip;
    bool has_connect;
    bool has_zerocopy; /* and it is wished for */
    uint64_t quiet_ns; /* being destroyed: since when no completion has come, 0 = not yet */
    nki_uring_wish wish;
    struct msghdr shape;  /* of received datagrams: the room in front of their bytes */
    unsigned char *guard; /* a page that reads 0 in a forked child */
    nki_fd_table watched;
    struct sockaddr_storage to; /* of the connect that is being begun: attach takes it */
    socklen_t to_len;           /* 0 = it was a call */
    uint64_t overflows;         /* times the kernel had more completions than places */
    uint64_t starved;           /* receives that found no buffer */
    uint64_t arms;              /* receives begun */
    uint64_t lendings;          /* zero-copy sends that kept their memory for a while */
} nki_u;

static nki_u *nki_u_of(const netkit_loop *loop) {
    return (nki_u *)loop->driver_state;
}

/* Whether this process is not the one that made the ring. */
static bool nki_u_is_child(const nki_u *u) {
    return u->guard != NULL && *(const volatile unsigned char *)u->guard == 0;
}

/* Whether work for the thread that runs this ring's operations is announced as a signal. While one
 * is pending, a receive that stands before an urgent byte says that there is nothing, whatever is
 * behind it (Linux, net/ipv4/tcp.c: "or have SIGURG pending"), and one that goes on would wait for
 * bytes that are there. So nothing goes on there but what begins anew, which looks first. */
static bool nki_u_is_signalled(const nki_u *u) {
    return (u->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) == 0;
}

/* The driver's half of a slot that was attached. */
static nki_u_slot *nki_u_at(const nki_u *u, uint32_t slot) {
    return &u->slabs[slot >> NKI_SLAB_BITS][slot & (NKI_SLAB_SLOTS - 1)];
}

static nki_u_slot *nki_u_slot_of(const nki_u *u, const nki_source *source) {
    return nki_u_at(u, nki_id_slot(source->id));
}

/* Which file an operation is about: by number where the ring has it. */
static void nki_u_aim(const nki_u *u, nki_uring_sqe *sqe, const nki_source *source) {
    uint32_t slot = nki_id_slot(source->id);
    if (NKI_UNLIKELY(nki_files_has(&u->files, slot))) {
        sqe->flags |= NKI_URING_SQE_FIXED_FILE;
        sqe->fd = (int32_t)slot;
    } else {
        sqe->fd = nki_os_fd(source->socket);
    }
}

static uint64_t nki_u_name(const nki_source *source, const nki_u_slot *s, unsigned op) {
    uint64_t kind = op == NKI_U_POLL ? op | (uint64_t)s->polls << 4 : op;
    return nki_token_of(source) | kind << NKI_SLOT_BITS;
}

/* ---- blobs ---- */

static unsigned char *nki_u_blob_data(nki_u_blob *b) {
    return (unsigned char *)(b + 1) + b->begin;
}

static size_t nki_u_blob_len(const nki_u_blob *b) {
    return b == NULL ? 0 : b->end - b->begin;
}

static void nki_u_blob_free(const netkit_allocator *a, nki_u_blob *b) {
    if (b != NULL) {
        nki_free(a, b, sizeof *b + b->capacity);
    }
}

/* Have room for `len` bytes at the end. */
static int nki_u_blob_reserve(const netkit_allocator *a, nki_u_blob **at, size_t len) {
    nki_u_blob *b = *at;
    if (b != NULL && b->capacity - b->end >= len) {
        return NETKIT_OK;
    }
    size_t had = nki_u_blob_len(b);
    size_t capacity = NKI_MAX(had + len, had * 2);
    nki_u_blob *more = (nki_u_blob *)nki_alloc(a, sizeof *more + capacity);
    if (more == NULL) {
        return NETKIT_E_NOMEM;
    }
    more->begin = 0;
    more->end = had;
    more->capacity = capacity;
    if (b != NULL) {
        memcpy(more + 1, nki_u_blob_data(b), had);
    }
    nki_u_blob_free(a, b);
    *at = more;
    return NETKIT_OK;
}

/* Append; what was there stays first. */
static int nki_u_blob_push(const netkit_allocator *a, nki_u_blob **at, const void *data,
                           size_t len) {
    if (nki_u_blob_reserve(a, at, len) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    memcpy((unsigned char *)(*at + 1) + (*at)->end, data, len);
    (*at)->end += len;
    return NETKIT_OK;
}

/* A buffer with a datagram: how long, and then so much, the next one being aligned again. */
static int nki_u_blob_push_dgram(const netkit_allocator *a, nki_u_blob **at, const void *data,
                                 size_t len) {
    uint64_t framed = (len + 7) & ~(uint64_t)7;
    if (nki_u_blob_reserve(a, at, sizeof framed + (size_t)framed) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    unsigned char *end = (unsigned char *)(*at + 1) + (*at)->end;
    memcpy(end, &framed, sizeof framed);
    memcpy(end + sizeof framed, data, len);
    (*at)->end += sizeof framed + (size_t)framed;
    return NETKIT_OK;
}

/* ---- who wants something ---- */

static void nki_u_want(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s,
                       unsigned what) {
    loop->is_unsubmitted = 1;
    s->want = (uint8_t)(s->want | what);
    if ((s->want & NKI_U_PENDING) != 0) {
        return;
    }
    uint32_t slot = nki_id_slot(source->id);
    s->want |= NKI_U_PENDING;
    s->next = NKI_NO_SLOT;
    if (u->want_last == NKI_NO_SLOT) {
        u->want_first = slot;
    } else {
        nki_u_at(u, u->want_last)->next = slot;
    }
    u->want_last = slot;
}

#endif /* NKI_HAS_URING */

/* ---- src/uring/operations.c ---- */
/* Operations: begun for those who want them, cancelled, and what their completions mean.
 *
 * There is at most one receive, send and accept of a descriptor at a time, and the next one is
 * begun only after the terminal completion (the one without F_MORE) of the one before. A cancelled
 * operation completes all the same, so memory and descriptor wait for that: close(2) alone would
 * neither end it nor send a FIN. (What may go before: nki_u_may_leave.)
 *
 * Tried and left out (Linux 6.18, loopback, 50 at a time, time of both sides). To close by an
 * operation with the next wait spares 0.5 to 0.8 of 3 to 6 us; but the descriptor would be there
 * still in on_close, in the way of who is at the limit of open files and dials anew, and a process
 * forked off before the wait would hold the connection as long as it lives. To shut down by one
 * costs 4.8 us instead of 3.5, as a thread of the kernel's does it. To cancel by descriptor makes
 * the kernel look through all that waits: 2.0 us instead of 0.8 with 50 conns, 230 instead of 10
 * with 8000. */

#if NKI_HAS_URING

enum {
    NKI_U_SEND_MAX = NKI_MIDDLE_CHUNK_SIZE - (int)sizeof(nki_chunk), /* larger ones are calls */
    NKI_U_BULK = 8,             /* reads by recv after a filled buffer */
    NKI_U_BULK_MIN = 4096,      /* one that is larger starts them anew */
    NKI_U_READS_MIN = 8,        /* large ones that a turn takes up at least */
    NKI_U_PARKED_SOCKETS = 256, /* accepted ahead of the listener */
    NKI_U_ENTERS_MAX = 64       /* of a wait that does not block */
};

/* For so long destroying a loop waits for a kernel that says nothing. */
#define NKI_U_DESTROY_NS (500 * (uint64_t)NKI_NS_PER_MS)

/* A place in the ring. None before it is enabled, so that another ring can take its place, none
 * when it is lost, and never in a forked child, to which its memory is not mapped. */
static nki_uring_sqe *nki_u_take(netkit_loop *loop, nki_u *u) {
    loop->is_unsubmitted = 1;
    return NKI_UNLIKELY(!u->ring.is_enabled || nki_u_is_child(u)) ? NULL : nki_uring_take(&u->ring);
}

/* ---- beginning ---- */

static bool nki_u_cancel(netkit_loop *loop, nki_u *u, uint64_t name) {
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    sqe->opcode = NKI_URING_CANCEL;
    sqe->flags = u->has_skip ? (uint8_t)NKI_URING_SQE_SKIP_SUCCESS : 0;
    sqe->fd = -1;
    sqe->addr = name;
    sqe->user_data = NKI_U_IGNORED;
    return true;
}

static bool nki_u_cancel_all(netkit_loop *loop, nki_u *u, const nki_source *source,
                             const nki_u_slot *s) {
    for (unsigned op = NKI_U_RECV; op <= NKI_U_CONNECT; op++) {
        if ((s->busy & NKI_U_BIT(op)) != 0 && !nki_u_cancel(loop, u, nki_u_name(source, s, op))) {
            return false;
        }
    }
    return true;
}

/* A poll of which nothing more may come. One that cannot be cancelled now, as the ring is full, is
 * owed, and nothing else is begun in its slot before, whoever has that by then: at most one is. */
static void nki_u_give_up_poll(netkit_loop *loop, nki_u *u, const nki_source *source,
                               nki_u_slot *s) {
    if ((s->busy & NKI_U_BIT(NKI_U_POLL)) != 0) {
        uint64_t name = nki_u_name(source, s, NKI_U_POLL);
        if (!nki_u_cancel(loop, u, name)) {
            s->owed = name;
            nki_u_want(loop, u, source, s, 0);
        }
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_POLL));
        s->polls = (uint8_t)((s->polls + 1) & 15);
    }
}

/* End a receive whose bytes are not wanted this way; what comes before its end is still parked. */
static void nki_u_turn_away(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s) {
    if ((s->busy & NKI_U_BIT(NKI_U_RECV)) != 0 && (s->state & NKI_U_TURNED_AWAY) == 0 &&
        nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_RECV))) {
        s->state |= NKI_U_TURNED_AWAY;
    }
}

static uint32_t nki_u_poll_bits(uint32_t events) {
    events &= 0xFFFF;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events = events << 16; /* the kernel's poll32_events has its halves swapped there */
#endif
    return events;
}

/* Errors, hang-ups and, unlike by poll(2), the peer's end are reported always: a single poll that
 * does not ask for that last one would complete at once, again and again. A poll that is there is
 * given up, not waited for. */
static bool nki_u_begin_poll(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s,
                             uint32_t events, bool is_multishot) {
    if ((s->busy & NKI_U_BIT(NKI_U_POLL)) != 0) {
        if (!nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_POLL))) {
            return false;
        }
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_POLL));
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    s->polls = (uint8_t)((s->polls + 1) & 15);
    sqe->opcode = NKI_URING_POLL_ADD;
    nki_u_aim(u, sqe, source);
    sqe->len = is_multishot ? NKI_URING_POLL_MULTISHOT : 0;
    sqe->op_flags = nki_u_poll_bits(events);
    sqe->user_data = nki_u_name(source, s, NKI_U_POLL);
    s->busy |= NKI_U_BIT(NKI_U_POLL);
    return true;
}

/* To poll first: else an empty pool would end it at once, although nothing has come. A conn's else
 * receives first: bytes and a reset that a poll finds together are one event to it, and after the
 * bytes nobody would look for the reset (seen on 6.18). */
static uint32_t nki_u_poll_first(const nki_u *u, const nki_source *source) {
    bool is_empty = u->pool.held >= u->pool.count;
    bool is_conn = nki_id_kind(source->id) == NKI_KIND_CONN;
    return is_conn && !is_empty ? 0u : (uint32_t)NKI_URING_RECV_POLL_FIRST;
}

static bool nki_u_begin_recv(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s) {
    if ((s->busy & NKI_U_BIT(NKI_U_POLL)) != 0) {
        if (!nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_POLL))) {
            return false;
        }
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_POLL));
        s->polls = (uint8_t)((s->polls + 1) & 15);
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    uint32_t multishot = NKI_URING_RECV_MULTISHOT;
    if (nki_id_kind(source->id) == NKI_KIND_UDP) { /* always multishot: else no head is written */
        sqe->opcode = NKI_URING_RECVMSG;
        sqe->addr = (uint64_t)(uintptr_t)&u->shape;
        sqe->len = 1;
    } else {
        sqe->opcode = NKI_URING_RECV;
        multishot = nki_u_is_signalled(u) ? 0u : NKI_SYS_io_uring_multishot(multishot);
    }
    sqe->flags |= NKI_URING_SQE_BUFFER_SELECT;
    sqe->ioprio = (uint16_t)(multishot | nki_u_poll_first(u, source));
    nki_u_aim(u, sqe, source);
    sqe->buffer_group = NKI_POOL_GROUP;
    sqe->user_data = nki_u_name(source, s, NKI_U_RECV);
    s->busy |= NKI_U_BIT(NKI_U_RECV);
    u->arms++;
    return true;
}

/* The address stays where it is until this has ended, as a polling thread may read it late. */
static bool nki_u_begin_connect(netkit_loop *loop, nki_u *u, const nki_source *source,
                                nki_u_slot *s) {
    if ((s->busy & NKI_U_BIT(NKI_U_CONNECT)) != 0 || (s->state & NKI_U_DIALLED) != 0) {
        return true;
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    sqe->opcode = NKI_URING_CONNECT;
    nki_u_aim(u, sqe, source);
    sqe->addr = (uint64_t)(uintptr_t)nki_u_blob_data(s->blob);
    sqe->off = nki_u_blob_len(s->blob);
    sqe->user_data = nki_u_name(source, s, NKI_U_CONNECT);
    s->busy |= NKI_U_BIT(NKI_U_CONNECT);
    return true;
}

static void nki_u_choose_pool(nki_u *u, bool is_sharing) {
    u->pool.is_sharing = is_sharing;
    u->pool.count = is_sharing ? NKI_POOL_SHARED_COUNT : NKI_POOL_COUNT;
    u->pool.size = NKI_POOL_SIZE;
    u->pool.wanted = NKI_POOL_WANTED;
}

/* The pool, made at first use: smaller where memory is short, never where the kernel cannot. */
static bool nki_u_has_pool(netkit_loop *loop, nki_u *u) {
    u->has_recv_multishot = u->has_recv_multishot && !u->pool.is_broken;
    while (u->has_recv_multishot && u->pool.ring == NULL) {
        int error = nki_pool_open(&u->pool, &u->ring, loop->keeper);
        if (error == ENOMEM && u->pool.count > 16) {
            u->pool.count /= 4;
        } else if (error == EINVAL && u->pool.is_sharing) {
            nki_u_choose_pool(u, false);
        } else {
            u->has_recv_multishot = error == 0;
        }
    }
    return u->has_recv_multishot;
}

/* Hear of bytes: have them received, or, where buffers are not the way, be told and read then.
 * Unix sockets are always read so: of bytes and an end that come together a multishot receive
 * reports only the bytes there, and never the end (seen on 6.18; liburing#1549). */
static bool nki_u_begin_reading(netkit_loop *loop, nki_u *u, const nki_conn *c, nki_u_slot *s) {
    if (NKI_UNLIKELY((c->flags & NKI_C_CONNECTING) != 0)) {
        return s->blob != NULL ? nki_u_begin_connect(loop, u, &c->source, s)
                               : nki_u_begin_poll(loop, u, &c->source, s, NETKIT_POLL_WRITE, false);
    }
    if ((s->state & NKI_U_ENDED) != 0) { /* PEER_END is always told: by one that goes on, once */
        return (s->busy & NKI_U_BIT(NKI_U_POLL)) != 0 ||
               nki_u_begin_poll(loop, u, &c->source, s, 0, true);
    }
    if ((s->busy & NKI_U_BIT(NKI_U_RECV)) != 0) {
        return true;
    }
    if (s->bulk == 0 && (s->state & NKI_U_POLLED) == 0 && nki_u_has_pool(loop, u)) {
        return nki_u_begin_recv(loop, u, &c->source, s);
    }
    /* While reads are large one poll goes on, which tells of changes alone, so that what is there
     * is read to its end: a poll for each read costs bulk 2 % more of its processor. */
    bool goes_on =
        u->has_recv_multishot && (s->state & NKI_U_POLLED) == 0 && !nki_u_is_signalled(u);
    /* Who looks first needs no word of an urgent byte: behind a gap it would be told for ever. */
    uint32_t events = NETKIT_POLL_READ | NETKIT_POLL_PEER_END;
    events |= goes_on ? (uint32_t)NETKIT_POLL_PRIORITY : 0u;
    return (s->busy & NKI_U_BIT(NKI_U_POLL)) != 0 ||
           nki_u_begin_poll(loop, u, &c->source, s, events, goes_on);
}

static bool nki_u_begin_accept(netkit_loop *loop, nki_u *u, const nki_listener *l, nki_u_slot *s) {
    if ((s->busy & (NKI_U_BIT(NKI_U_ACCEPT) | NKI_U_BIT(NKI_U_POLL))) != 0) {
        return true;
    }
    if (!u->has_accept_multishot) {
        return nki_u_begin_poll(loop, u, &l->source, s, NETKIT_POLL_READ, true);
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    sqe->opcode = NKI_URING_ACCEPT;
    sqe->ioprio = NKI_SYS_io_uring_multishot(NKI_URING_ACCEPT_MULTISHOT);
    sqe->fd = nki_os_fd(l->source.socket);
    sqe->op_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    sqe->user_data = nki_u_name(&l->source, s, NKI_U_ACCEPT);
    s->busy |= NKI_U_BIT(NKI_U_ACCEPT);
    return true;
}

/* A datagram that fits a buffer is received into one; longer ones, and rows of merged ones, which
 * are 64 KiB long, are read when a poll says so. In a shared buffer a head would begin anywhere. */
static bool nki_u_is_received(netkit_loop *loop, nki_u *u, const nki_udp *udp) {
    return udp->more->room.size + NKI_U_CAME_SIZE <= NKI_POOL_SIZE && !u->pool.is_sharing &&
           nki_u_has_pool(loop, u);
}

static bool nki_u_begin_udp(netkit_loop *loop, nki_u *u, nki_udp *udp, nki_u_slot *s) {
    uint32_t events = s->events;
    bool is_busy = (s->busy & NKI_U_BIT(NKI_U_RECV)) != 0;
    if ((events & NETKIT_POLL_READ) == 0 && is_busy) {
        nki_u_turn_away(loop, u, &udp->source, s);
        if ((s->state & NKI_U_TURNED_AWAY) == 0) {
            return false;
        }
    }
    /* What it has to read comes first, else one that often pauses would gather ever more. */
    bool is_full = s->first != NKI_POOL_NONE || s->blob != NULL;
    bool is_waiting = is_busy || is_full;
    if ((events & NETKIT_POLL_READ) != 0 && (is_waiting || nki_u_is_received(loop, u, udp))) {
        events &= ~(uint32_t)NETKIT_POLL_READ;
        if (!is_waiting && !nki_u_begin_recv(loop, u, &udp->source, s)) {
            return false;
        }
    }
    /* One for room to send may be there from when it was received for: it would not tell. */
    bool is_polled = events == NETKIT_POLL_WRITE && (s->busy & NKI_U_BIT(NKI_U_POLL)) != 0;
    return events == 0 || is_polled || nki_u_begin_poll(loop, u, &udp->source, s, events, false);
}

static bool nki_u_begin_input(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s) {
    switch (nki_id_kind(source->id)) {
    case NKI_KIND_CONN: return nki_u_begin_reading(loop, u, (nki_conn *)(void *)source, s);
    case NKI_KIND_LISTENER: return nki_u_begin_accept(loop, u, (nki_listener *)(void *)source, s);
    case NKI_KIND_WATCH:
        if ((s->events & NKI_POLL_SPEAKS) != 0 && (s->busy & NKI_U_BIT(NKI_U_POLL)) == 0) {
            uint32_t events = s->events & NKI_POLL_SPEAKS;
            events |= (events & NETKIT_POLL_READ) != 0 ? (uint32_t)NETKIT_POLL_PEER_END : 0u;
            bool is_edge = (s->events & NETKIT_POLL_EDGE) != 0 || (s->state & NKI_U_DEAF) != 0;
            return nki_u_begin_poll(loop, u, source, s, events, is_edge);
        }
        return true;
    case NKI_KIND_UDP: return nki_u_begin_udp(loop, u, (nki_udp *)(void *)source, s);
    default: return true;
    }
}

/* Lent memory of so many bytes the kernel should take without copying it; SIZE_MAX: none. */
static size_t nki_u_lent_min(const netkit_loop *loop, const nki_u *u, const nki_conn *c,
                             const nki_u_slot *s) {
    bool is_lending =
        u->has_zerocopy && (c->flags & NKI_C_TCP) != 0 && (s->state & NKI_U_COPIED) == 0;
    return is_lending ? loop->desc.ring_zerocopy_min : SIZE_MAX;
}

static bool nki_u_is_lendable(const netkit_loop *loop, const nki_u *u, const nki_conn *c,
                              const nki_u_slot *s, const nki_chunk *chunk) {
    return chunk->capacity == 0 && chunk->file == 0 &&
           chunk->end - chunk->begin >= nki_u_lent_min(loop, u, c, s);
}

/* The first chunk that holds something. */
static const nki_chunk *nki_u_sending(const nki_conn *c) {
    const nki_chunk *chunk = c->out;
    while (chunk != NULL && chunk->begin == chunk->end) {
        chunk = chunk->next;
    }
    return chunk;
}

/* The first chunk alone: what is behind it goes out when this is known to have gone. A file is
 * sent by calls, and so are descriptors, which kernels before 6.13 forget when a send has to wait:
 * for them the operation is to wait until there is room. */
static bool nki_u_begin_send(netkit_loop *loop, nki_u *u, const nki_conn *c, nki_u_slot *s) {
    const nki_chunk *chunk = nki_u_sending(c);
    if (chunk == NULL || (s->busy & NKI_U_BIT(NKI_U_SEND)) != 0) {
        return true;
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    size_t len = NKI_MIN(chunk->end - chunk->begin, (size_t)INT_MAX);
    nki_u_aim(u, sqe, &c->source);
    s->is_lending = nki_u_is_lendable(loop, u, c, s, chunk);
    if (nki_out_is_alone(chunk)) {
        sqe->opcode = NKI_URING_POLL_ADD;
        sqe->len = NKI_URING_POLL_MULTISHOT;
        sqe->op_flags = nki_u_poll_bits(NETKIT_POLL_WRITE);
    } else {
        sqe->opcode = NKI_URING_SEND;
        sqe->addr = (uint64_t)(uintptr_t)(chunk->data + chunk->begin);
        sqe->len = (uint32_t)NKI_CLIP(send, len);
        sqe->op_flags = NKI_MSG_NOSIGNAL;
    }
    if (NKI_UNLIKELY(s->is_lending)) {
        sqe->opcode = NKI_URING_SEND_ZC;
        sqe->ioprio = NKI_URING_SEND_ZC_REPORT;
        sqe->op_flags |= MSG_WAITALL; /* one notification for all of it */
    }
    sqe->user_data = nki_u_name(&c->source, s, NKI_U_SEND);
    s->busy |= NKI_U_BIT(NKI_U_SEND);
    u->sends++;
    return true;
}

static bool nki_u_begin(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s) {
    if (NKI_UNLIKELY(s->owed != 0)) {
        if (!nki_u_cancel(loop, u, s->owed)) {
            return false;
        }
        s->owed = 0;
    }
    if (source->token == 0) {
        return true; /* it has died meanwhile */
    }
    if ((s->state & NKI_U_CLOSING) != 0) {
        return nki_u_cancel_all(loop, u, source, s);
    }
    if ((s->state & NKI_U_ROOM) != 0) {
        if (!nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_SEND))) {
            return false;
        }
        s->state = (uint16_t)(s->state & ~NKI_U_ROOM);
    }
    if ((s->want & NKI_U_WANT_SEND) != 0) {
        if (!nki_u_begin_send(loop, u, (nki_conn *)(void *)source, s)) {
            return false;
        }
        s->want = (uint8_t)(s->want & ~NKI_U_WANT_SEND);
    }
    return (s->want & NKI_U_WANT_INPUT) == 0 || nki_u_begin_input(loop, u, source, s);
}

/* Begin all that is wanted, first come first served, as far as the ring takes it. */
static void nki_u_begin_all(netkit_loop *loop, nki_u *u) {
    while (u->want_first != NKI_NO_SLOT) {
        uint32_t slot = u->want_first;
        nki_u_slot *s = nki_u_at(u, slot);
        nki_source *source = (nki_source *)(void *)nki_slots_at(&loop->sources, slot);
        if (!nki_u_begin(loop, u, source, s)) {
            return;
        }
        u->want_first = s->next;
        if (u->want_first == NKI_NO_SLOT) {
            u->want_last = NKI_NO_SLOT;
        }
        s->want = 0;
    }
}

/* ---- what a conn has received ---- */

/* The handler is done with what it had. */
static void nki_u_reclaim(netkit_loop *loop, nki_u *u) {
    while (u->lent != NKI_POOL_NONE) {
        uint16_t id = u->lent;
        u->lent = u->pool.records[id].next;
        nki_pool_give(&u->pool, id);
    }
    if (NKI_UNLIKELY(u->lent_blob != NULL)) {
        nki_u_blob_free(&loop->allocator, u->lent_blob);
        u->lent_blob = NULL;
    }
    u->reading = NULL;
}

static void nki_u_park(nki_u *u, nki_u_slot *s, uint32_t slot, uint16_t id) {
    nki_pool_record *record = &u->pool.records[id];
    record->slot = slot;
    record->next = NKI_POOL_NONE;
    if (s->first == NKI_POOL_NONE) {
        s->first = id;
    } else {
        u->pool.records[s->last].next = id;
    }
    s->last = id;
}

static uint16_t nki_u_unpark(nki_u *u, nki_u_slot *s) {
    uint16_t id = s->first;
    s->first = u->pool.records[id].next;
    return id;
}

static void nki_u_drop_blob(netkit_loop *loop, nki_u_slot *s) {
    nki_u_blob_free(&loop->allocator, s->blob);
    s->blob = NULL;
}

/* The first of what is parked goes to a handler. */
static uint16_t nki_u_lend(nki_u *u, nki_u_slot *s) {
    uint16_t id = nki_u_unpark(u, s);
    u->pool.records[id].next = u->lent;
    u->lent = id;
    return id;
}

/* Forget what was received. What the handler is looking at stays until it is done. */
static void nki_u_forget(netkit_loop *loop, nki_u *u, nki_u_slot *s) {
    bool is_reading = u->reading == s;
    if (s->blob != NULL) {
        if (is_reading) {
            u->lent_blob = s->blob;
            s->blob = NULL;
            is_reading = false;
        }
        nki_u_drop_blob(loop, s);
    }
    while (s->first != NKI_POOL_NONE) {
        if (is_reading) {
            (void)nki_u_lend(u, s);
            is_reading = false;
        } else {
            nki_pool_give(&u->pool, nki_u_unpark(u, s));
        }
    }
    u->reading = u->reading == s ? NULL : u->reading;
}

/* Between turns: buffers of a conn that does not read now are copied out and given back, so that
 * those who pause never starve the others, and it is received for no more until it reads. Where
 * memory is short it keeps them. */
static void nki_u_evict(netkit_loop *loop, nki_u *u, uint32_t slot) {
    nki_u_slot *s = nki_u_at(u, slot);
    nki_source *source = (nki_source *)(void *)nki_slots_at(&loop->sources, slot);
    bool is_udp = nki_id_kind(source->id) == NKI_KIND_UDP;
    nki_u_turn_away(loop, u, source, s);
    while (s->first != NKI_POOL_NONE) {
        const nki_pool_record *record = &u->pool.records[s->first];
        const unsigned char *data = nki_pool_data(&u->pool, s->first) + record->begin;
        size_t len = record->end - record->begin;
        int error = is_udp ? nki_u_blob_push_dgram(&loop->allocator, &s->blob, data, len)
                           : nki_u_blob_push(&loop->allocator, &s->blob, data, len);
        if (error != NETKIT_OK) {
            return;
        }
        nki_pool_give(&u->pool, nki_u_unpark(u, s));
    }
}

static void nki_u_evict_all(netkit_loop *loop, nki_u *u) {
    for (uint32_t i = 0; i < u->pool.records_count && u->pool.held != 0; i++) {
        uint32_t slot = u->pool.records[i].slot;
        if (slot != NKI_POOL_FREE) {
            nki_u_evict(loop, u, slot);
        }
    }
}

/* ---- completions ---- */

static void nki_u_drop_file(nki_u *u, const nki_source *source) {
    if (NKI_UNLIKELY(u->files.fds != NULL) && !nki_u_is_child(u)) { /* it is the parent's table */
        nki_files_drop(&u->files, &u->ring, nki_id_slot(source->id));
    }
}

/* Nothing is in flight any more. */
static void nki_u_finish(netkit_loop *loop, nki_source *source, nki_u_slot *s) {
    source->token = 0;        /* a poll that was given up may still say something */
    nki_u_drop_blob(loop, s); /* the address of a connect that was in flight */
    nki_u_drop_file(nki_u_of(loop), source);
    if (source->socket != UINTPTR_MAX) {
        (void)((s->state & NKI_U_RESET) != 0 ? nki_os_reset(source->socket)
                                             : nki_os_close(source->socket));
    }
    nki_gone(loop, source);
}

/* It is closed, and all it still waits for is memory that the kernel holds until the peer has it.
 * A reset makes it let go. */
static void nki_u_stop_lending(nki_u *u, nki_source *source, const nki_u_slot *s) {
    if (s->busy == NKI_U_BIT(NKI_U_SEND) && (s->state & NKI_U_LENDING) != 0 &&
        source->socket != UINTPTR_MAX) {
        nki_u_drop_file(u, source);
        (void)nki_os_reset(source->socket);
        source->socket = UINTPTR_MAX;
    }
}

/* A buffer that came with nothing for anybody. A shared one that nothing was put into is with the
 * kernel still. */
static void nki_u_return(nki_u *u, const nki_uring_cqe *cqe) {
    bool has_buffer = (cqe->flags & NKI_URING_CQE_BUFFER) != 0;
    if (has_buffer && (cqe->res > 0 || u->pool.shares == NULL)) {
        uint16_t id = nki_pool_take(&u->pool, cqe);
        if (id != NKI_POOL_NONE) {
            nki_pool_give(&u->pool, id);
        }
    }
}

static bool nki_u_is_passing(int os_code) {
    return os_code == EAGAIN || os_code == EINTR;
}

static nki_source *nki_u_received_odd(netkit_loop *loop, nki_u *u, nki_source *source,
                                      nki_u_slot *s, int res) {
    NKI_UNUSED(loop);
    source->ready = (uint16_t)(source->ready | NETKIT_POLL_READ);
    if (s->error != 0) {
        return source; /* bytes are missing: what comes behind them is not told */
    }
    if (res == 0) {
        s->state |= NKI_U_EOF;
    } else if (res == -ENOBUFS) {
        u->pool.is_short = true;
        u->starved++; /* its bytes wait in the socket: the next read takes them from there */
    } else if (res == -EINVAL || res == -EOPNOTSUPP) {
        u->has_recv_multishot = false;
    } else if (res != -ECANCELED && !nki_u_is_passing(-res)) {
        s->error = (uint16_t)-res;
        source->ready = (uint16_t)(source->ready | NETKIT_POLL_ERROR);
    }
    return source;
}

static NKI_HOT nki_source *nki_u_received(netkit_loop *loop, nki_u *u, nki_source *source,
                                          nki_u_slot *s, const nki_uring_cqe *cqe) {
    int res = cqe->res;
    if ((cqe->flags & NKI_URING_CQE_MORE) == 0) {
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_RECV));
        s->state = (uint16_t)(s->state & ~NKI_U_TURNED_AWAY);
    }
    if (NKI_UNLIKELY(res <= 0 || s->error != 0)) {
        nki_u_return(u, cqe);
        return nki_u_received_odd(loop, u, source, s, res);
    }
    uint16_t id = nki_pool_take(&u->pool, cqe);
    if (NKI_UNLIKELY(id == NKI_POOL_NONE)) {
        nki_u_turn_away(loop, u, source, s);
        return nki_u_received_odd(loop, u, source, s, u->pool.is_broken ? -EIO : -ENOMEM);
    }
    nki_u_park(u, s, nki_id_slot(source->id), id);
    if (nki_id_kind(source->id) == NKI_KIND_UDP) { /* its answers go out together */
        nki_ready(loop, source, NETKIT_POLL_READ);
        return NULL;
    }
    source->ready = (uint16_t)(source->ready | NETKIT_POLL_READ);
    if (NKI_UNLIKELY((uint32_t)res == u->pool.size)) {
        s->bulk = NKI_U_BULK;
        nki_u_turn_away(loop, u, source, s);
    }
    if (NKI_LIKELY(s->turn != (uint32_t)loop->turns)) {
        s->turn = (uint32_t)loop->turns;
        s->taken = (uint32_t)res;
        return source;
    }
    /* Others come first once it has had its part of this turn. */
    bool is_over = s->taken >= loop->desc.conn_budget;
    s->taken += (uint32_t)res;
    if (is_over) {
        nki_enqueue_later(loop, source);
    }
    return is_over ? NULL : source;
}

/* A zero-copy send says twice: how much of it went, and later that the memory is free again. Only
 * then it is over. Returns whether it is, and then *res is how much went; refusals are no errors,
 * but reasons to copy from now on. */
static bool nki_u_lent(nki_u *u, nki_u_slot *s, const nki_uring_cqe *cqe, int *res) {
    if ((cqe->flags & NKI_URING_CQE_MORE) != 0) {
        s->sent = cqe->res;
        s->state |= NKI_U_LENDING;
        u->lendings++;
        return false;
    }
    *res = cqe->res;
    if ((cqe->flags & NKI_URING_CQE_NOTIF) != 0) {
        *res = s->sent;
        s->state = (uint16_t)(s->state & ~NKI_U_LENDING);
        if (((uint32_t)cqe->res & NKI_URING_NOTIF_COPIED) != 0) {
            s->state |= NKI_U_COPIED;
        }
    }
    if (*res == -EINVAL || *res == -EOPNOTSUPP || *res == -ENOMEM || *res == -ENOBUFS) {
        s->state |= NKI_U_COPIED;
        *res = 0;
    }
    return true;
}

static nki_source *nki_u_sent(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                              const nki_uring_cqe *cqe) {
    nki_conn *c = (nki_conn *)(void *)source;
    int res = cqe->res;
    if (NKI_UNLIKELY(s->is_lending) && !nki_u_lent(u, s, cqe, &res)) {
        return NULL;
    }
    if (NKI_UNLIKELY((cqe->flags & NKI_URING_CQE_MORE) != 0)) { /* the poll for room */
        if (((uint32_t)res & (NETKIT_POLL_WRITE | NKI_POLL_ALWAYS)) != 0) {
            s->state |= NKI_U_ROOM;
            nki_u_want(loop, u, source, s, 0);
        }
        return NULL;
    }
    s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_SEND));
    s->state = (uint16_t)(s->state & ~NKI_U_ROOM);
    u->sends--;
    const nki_chunk *chunk = nki_u_sending(c);
    if (NKI_LIKELY(res >= 0)) {
        if (NKI_LIKELY(chunk == NULL || !nki_out_is_alone(chunk))) { /* else the events of a poll */
            nki_out_sent(loop, c, (size_t)res);
        }
    } else if (res != -ECANCELED && !nki_u_is_passing(-res)) {
        s->send_error = (uint16_t)-res;
    }
    bool is_plain = (c->flags & ~(uint32_t)NKI_C_PLAIN) == NKI_C_STALLED && c->out == NULL &&
                    (source->ready & NKI_READABLE) == 0;
    if (NKI_LIKELY(is_plain && s->send_error == 0)) {
        c->flags &= ~(uint32_t)NKI_C_STALLED;
        return NULL;
    }
    source->ready = (uint16_t)(source->ready | NETKIT_POLL_WRITE);
    return source;
}

static void nki_u_accepted(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                           const nki_uring_cqe *cqe) {
    int fd = cqe->res;
    if ((cqe->flags & NKI_URING_CQE_MORE) == 0) {
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_ACCEPT));
        s->state = (uint16_t)(s->state & ~NKI_U_TURNED_AWAY);
    }
    if (fd >= 0) {
        if (nki_u_blob_push(&loop->allocator, &s->blob, &fd, sizeof fd) != NETKIT_OK) {
            s->error = ENOMEM;
            nki_os_abandon((uintptr_t)fd);
        }
    } else if (fd == -EINVAL && u->has_accept_multishot) {
        u->has_accept_multishot = false; /* or it is not listening: accept itself will say so */
    } else if (fd != -ECANCELED && !nki_u_is_passing(-fd)) {
        s->error = (uint16_t)-fd;
    }
    bool is_full = nki_u_blob_len(s->blob) >= NKI_U_PARKED_SOCKETS * sizeof fd;
    if (is_full && (s->busy & NKI_U_BIT(NKI_U_ACCEPT)) != 0 &&
        (s->state & NKI_U_TURNED_AWAY) == 0 &&
        nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_ACCEPT))) {
        s->state |= NKI_U_TURNED_AWAY;
    }
    nki_ready(loop, source, NETKIT_POLL_READ); /* served when all are known, for its budget */
}

/* What is still under way after all is waited for as after a call. */
static nki_source *nki_u_dialled(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                                 int res) {
    s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_CONNECT));
    if (res == -EINPROGRESS || res == -EALREADY || res == -EINTR) {
        nki_u_drop_blob(loop, s);
        nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
        return NULL;
    }
    s->state |= NKI_U_DIALLED;
    s->error = (uint16_t)(res < 0 ? -res : 0);
    source->ready = (uint16_t)(source->ready | NETKIT_POLL_WRITE);
    return source;
}

/* Of a conn whose peer has ended: only a reset is news. */
static nki_source *nki_u_polled_end(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                                    const nki_uring_cqe *cqe) {
    uint32_t said = cqe->res < 0 ? (uint32_t)NETKIT_POLL_ERROR : (uint32_t)cqe->res;
    uint32_t events = said & NKI_POLL_ALWAYS;
    if (events == 0 && (cqe->flags & NKI_URING_CQE_MORE) == 0) {
        nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    }
    source->ready = (uint16_t)(source->ready | events);
    return events == 0 ? NULL : source;
}

/* What a watch is told. With nothing but an end that it does not ask for, it waits for a change. */
static uint32_t nki_u_watched(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s,
                              const nki_uring_cqe *cqe, uint32_t events) {
    const uint32_t reading = NETKIT_POLL_READ | NETKIT_POLL_PEER_END;
    uint32_t end = (s->events & reading) != 0 ? (uint32_t)NETKIT_POLL_PEER_END : 0u;
    events &= s->events | NKI_POLL_ALWAYS | end;
    if ((s->events & NETKIT_POLL_EDGE) != 0) {
        return events;
    }
    if (events == 0) {
        s->state |= NKI_U_DEAF;
    } else if ((cqe->flags & NKI_URING_CQE_MORE) != 0) { /* and is then level-triggered again */
        s->state = (uint16_t)(s->state & ~NKI_U_DEAF);
        nki_u_give_up_poll(loop, u, source, s);
        nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    }
    return events;
}

static nki_source *nki_u_polled(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                                const nki_uring_cqe *cqe) {
    if ((cqe->flags & NKI_URING_CQE_MORE) == 0) {
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_POLL));
        if (nki_id_kind(source->id) == NKI_KIND_WATCH && cqe->res >= 0) {
            nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT); /* looked at again when served */
        }
    }
    if (cqe->res == -ECANCELED) {
        return NULL;
    }
    if ((s->state & NKI_U_ENDED) != 0) {
        return nki_u_polled_end(loop, u, source, s, cqe);
    }
    uint32_t events = cqe->res < 0 ? NETKIT_POLL_READ | NETKIT_POLL_ERROR : (uint32_t)cqe->res;
    if (nki_id_kind(source->id) == NKI_KIND_CONN &&
        (((const nki_conn *)(const void *)source)->flags & NKI_C_CONNECTING) == 0 &&
        (events & NKI_POLL_ALWAYS) != 0) {
        /* Reading will tell. A send that is in flight ends by its own completion: taken for room
         * to send, a hang-up would be looked at over and over until then. */
        events = (events & ~NKI_POLL_ALWAYS) | NETKIT_POLL_READ;
    }
    if (nki_id_kind(source->id) == NKI_KIND_WATCH) {
        events = nki_u_watched(loop, u, source, s, cqe, events);
    }
    source->ready = (uint16_t)(source->ready | events);
    return events == 0 ? NULL : source;
}

/* Of an operation that nobody waits for any more: its memory and descriptors. */
static void nki_u_orphan(nki_u *u, const nki_uring_cqe *cqe) {
    unsigned op = (unsigned)(cqe->user_data >> NKI_SLOT_BITS) & 15u;
    nki_u_return(u, cqe);
    if (op == NKI_U_ACCEPT && cqe->res >= 0 && cqe->user_data != NKI_U_IGNORED) {
        nki_os_abandon((uintptr_t)cqe->res);
    }
}

/* Of one that is being closed. */
static void nki_u_completed_closing(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                                    const nki_uring_cqe *cqe) {
    unsigned op = (unsigned)(cqe->user_data >> NKI_SLOT_BITS) & 15u;
    bool is_current = op != NKI_U_POLL || cqe->user_data == nki_u_name(source, s, op);
    nki_conn *c = (nki_conn *)(void *)source;
    int sent = cqe->res;
    bool is_sent = op == NKI_U_SEND && (!s->is_lending || nki_u_lent(u, s, cqe, &sent));
    const nki_chunk *chunk = is_sent && sent > 0 ? nki_u_sending(c) : NULL;
    if (chunk != NULL && !nki_out_is_alone(chunk)) {
        uint32_t kept = c->u.live.active_ms; /* of the dead it is a part of the reason */
        nki_out_sent(loop, c, (size_t)sent);
        c->u.live.active_ms = kept;
    }
    nki_u_orphan(u, cqe);
    if (is_current && (cqe->flags & NKI_URING_CQE_MORE) == 0) {
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(op));
        u->sends -= op == NKI_U_SEND;
    }
}

static NKI_HOT nki_source *nki_u_completed(netkit_loop *loop, nki_u *u, const nki_uring_cqe *cqe) {
    nki_source *source = nki_token_find(loop, cqe->user_data);
    if (NKI_UNLIKELY(source == NULL)) {
        if (cqe->user_data == NKI_U_WAKE) {
            /* Each write to the eventfd ends in a completion, whether the ones before it were read
             * or not; only a poll that begins looks at what has been there before. */
            u->is_wake_armed = (cqe->flags & NKI_URING_CQE_MORE) != 0;
            if (!u->is_wake_armed) {
                loop->is_unsubmitted = 1; /* who waits elsewhere comes back before that */
                nki_os_wake_drain(&loop->wake);
            }
        } else {
            nki_u_orphan(u, cqe);
        }
        return NULL;
    }
    nki_u_slot *s = nki_u_at(u, nki_id_slot(cqe->user_data));
    unsigned op = (unsigned)(cqe->user_data >> NKI_SLOT_BITS) & 15u;
    if (NKI_UNLIKELY((s->state & NKI_U_CLOSING) != 0)) {
        nki_u_completed_closing(loop, u, source, s, cqe);
        if (s->busy == 0) {
            nki_u_finish(loop, source, s);
        } else {
            nki_u_stop_lending(u, source, s);
        }
        return NULL;
    }
    switch (op) {
    case NKI_U_RECV: return nki_u_received(loop, u, source, s, cqe);
    case NKI_U_SEND: return nki_u_sent(loop, u, source, s, cqe);
    case NKI_U_ACCEPT: nki_u_accepted(loop, u, source, s, cqe); return NULL;
    case NKI_U_CONNECT: return nki_u_dialled(loop, u, source, s, cqe->res);
    default: break;
    }
    bool is_current = cqe->user_data == nki_u_name(source, s, NKI_U_POLL);
    return is_current ? nki_u_polled(loop, u, source, s, cqe) : NULL;
}

#endif /* NKI_HAS_URING */

/* ---- src/uring/datagrams.c ---- */
/* Datagrams. Short ones come by one receive that goes on, into provided buffers, and are handed
 * over where they lie, which spares a bare server 5 % of its processor time (tools/bench/udp.c).
 * The others, and those that find no buffer, are told by a poll and taken by recvmmsg. All are sent
 * by sendmmsg: an operation for each would cost more. */

#if NKI_HAS_URING

/* All that has come by completions was read. */
static void nki_u_update_ready(nki_source *source, const nki_u_slot *s) {
    if (s->first == NKI_POOL_NONE && s->blob == NULL && s->error == 0 &&
        (s->busy & NKI_U_BIT(NKI_U_RECV)) != 0) {
        source->ready = 0;
    }
}

/* What is there already completes at once. */
static void nki_u_arm(netkit_loop *loop, nki_source *source, uint32_t wanted) {
    nki_u *u = nki_u_of(loop);
    if (nki_id_kind(source->id) == NKI_KIND_UDP) {
        nki_u_slot *s = nki_u_slot_of(u, source);
        s->events = wanted;
        nki_u_give_up_poll(loop, u, source, s);
        nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    }
}

/* One of at most size_max bytes out of a buffer. */
static void nki_u_read_dgram(netkit_datagram *out, unsigned char *at, size_t size_max) {
    nki_uring_came came;
    struct msghdr msg;
    memcpy(&came, at, sizeof came);
    memset(&msg, 0, sizeof msg);
    msg.msg_name = at + sizeof came;
    msg.msg_namelen = NKI_MIN(came.name_len, (uint32_t)NKI_U_NAME_SIZE);
    msg.msg_control = at + sizeof came + NKI_U_NAME_SIZE;
    msg.msg_controllen = came.control_len;
    msg.msg_flags = (int)came.flags;
    nki_dgram_read(out, &msg, at + NKI_U_CAME_SIZE, NKI_MIN((size_t)came.len, size_max));
    out->is_truncated = out->is_truncated || came.len > size_max;
}

/* Those that were taken out of their buffers, as the udp was not read. */
static unsigned nki_u_take_kept(nki_u *u, nki_u_slot *s, netkit_datagram *out,
                                const nki_dgram_room *room) {
    unsigned count = 0;
    while (nki_u_blob_len(s->blob) != 0 && count < room->count) {
        uint64_t framed;
        unsigned char *at = nki_u_blob_data(s->blob);
        memcpy(&framed, at, sizeof framed);
        nki_u_read_dgram(&out[count++], at + sizeof framed, room->size);
        s->blob->begin += sizeof framed + (size_t)framed;
    }
    if (nki_u_blob_len(s->blob) == 0) {
        u->lent_blob = s->blob;
        s->blob = NULL;
    } else {
        u->reading = s;
    }
    return count;
}

static int nki_u_take_dgrams(netkit_loop *loop, nki_u *u, nki_udp *udp, nki_u_slot *s) {
    const nki_dgram_room *room = &udp->more->room;
    netkit_datagram *out = loop->dgrams->in;
    unsigned count = 0;
    if (NKI_FAIL(recvmmsg) && !nki_u_is_passing(errno)) {
        return nki_os_error();
    }
    if (NKI_UNLIKELY(s->blob != NULL)) {
        count = nki_u_take_kept(u, s, out, room);
    } else {
        while (s->first != NKI_POOL_NONE && count < room->count) {
            uint16_t id = nki_u_lend(u, s);
            nki_u_read_dgram(&out[count++], nki_pool_data(&u->pool, id), room->size);
        }
    }
    nki_u_update_ready(&udp->source, s);
    return (int)count;
}

static int nki_u_udp_recv(netkit_loop *loop, nki_udp *udp) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &udp->source);
    nki_u_reclaim(loop, u);
    if (s->first != NKI_POOL_NONE || s->blob != NULL) {
        return nki_u_take_dgrams(loop, u, udp, s);
    }
    if (s->error != 0) {
        errno = s->error;
        s->error = 0;
        return nki_os_error();
    }
    if ((s->busy & NKI_U_BIT(NKI_U_RECV)) != 0) {
        udp->source.ready = (uint16_t)(udp->source.ready & ~NKI_READABLE);
        return NETKIT_E_AGAIN;
    }
    int n = nki_os_recv_dgrams(udp->source.socket, loop->dgrams->recv_scratch, loop->dgrams->in,
                               &udp->more->room);
    if (n == NETKIT_E_AGAIN || (n > 0 && (unsigned)n < udp->more->room.count)) {
        udp->source.ready = (uint16_t)(udp->source.ready & ~NKI_READABLE);
        nki_u_want(loop, u, &udp->source, s, NKI_U_WANT_INPUT);
    }
    return n;
}

/* A send may take the socket's error, which tells that there are reports, and not say so when
 * others went before it; then no receive ends by it either. Who sends less looks for reports. */
static int nki_u_udp_send(netkit_loop *loop, nki_udp *udp, const nki_dgram_out *out,
                          unsigned count) {
    int n = nki_r_udp_send(loop, udp, out, count);
    if (NKI_UNLIKELY(n < (int)count) && n != NETKIT_E_AGAIN &&
        (udp->flags & NKI_D_TELL_ERRORS) != 0) {
        udp->flags |= NKI_D_ERRORS;
        nki_enqueue(loop, &udp->source);
    }
    return n;
}

#endif /* NKI_HAS_URING */

/* ---- src/uring/driver.c ---- */
/* The ring driver: the system does what it was told before, and completions say what came of it.
 *
 * Small messages are its gain: bytes arrive in provided buffers by one receive that goes on for
 * ever, small answers are sends told to the kernel together with the next wait, so that
 * at 50 conns a system call serves dozens of messages. What is large, and what somebody wants to
 * have happened when a call returns, is done by a call at once, as the readiness driver does it:
 * there the ring has nothing to win. Who reads slowly never holds a buffer beyond a turn. */

#if NKI_HAS_URING

static void nki_u_guard_open(nki_u *u) {
#if defined(MADV_WIPEONFORK)
    void *page = NKI_SYS_mmap((size_t)1, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return;
    }
    if (NKI_SYS_madvise(page, (size_t)1, MADV_WIPEONFORK) != 0) {
        (void)NKI_SYS_munmap(page, (size_t)1);
        return;
    }
    u->guard = (unsigned char *)page;
    *u->guard = 1;
#else
    NKI_UNUSED(u);
#endif
}

/* ---- refusal ---- */

static const char *nki_u_errno_name(int os_code) {
    switch (os_code) {
    case EPERM: return "EPERM";
    case EACCES: return "EACCES";
    case ENOSYS: return "ENOSYS";
    case ENOMEM: return "ENOMEM";
    case EINVAL: return "EINVAL";
    case EOPNOTSUPP: return "EOPNOTSUPP";
    case EMFILE: return "EMFILE";
    case ENFILE: return "ENFILE";
    default: return "errno";
    }
}

/* kernel.io_uring_disabled: '0', '1', '2', or '?' where there is no such setting. */
static char nki_u_sysctl(void) {
    char value = '?';
    int fd = NKI_SYS_open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (NKI_SYS_read(fd, &value, 1) != 1) {
            value = '?';
        }
        nki_os_abandon((uintptr_t)fd);
    }
    return value;
}

/* Say why, and which code that is: a refusal means that there is no such backend here. */
static int nki_u_refused(netkit_loop *loop, const char *where, int os_code) {
    const char *hint = "";
    if (os_code == EPERM || os_code == EACCES) {
        char value = nki_u_sysctl();
        hint = value == '1'   ? " (kernel.io_uring_disabled is 1)"
               : value == '2' ? " (kernel.io_uring_disabled is 2)"
                              : " (seccomp?)";
    } else if (os_code == ENOSYS || os_code == EINVAL) {
        hint = " (kernel too old, or seccomp?)";
    } else if (os_code == ENOMEM) {
        hint = " (RLIMIT_MEMLOCK?)";
    }
    snprintf(loop->why, sizeof loop->why, "io_uring refused: %s (%d) at %s%s",
             nki_u_errno_name(os_code), os_code, where, hint);
    errno = os_code;
    bool is_missing = os_code == EPERM || os_code == EACCES || os_code == ENOSYS ||
                      os_code == EINVAL || os_code == EOPNOTSUPP;
    return is_missing ? (int)NETKIT_E_NOSYS : netkit_error_from_os(os_code);
}

/* ---- life ---- */

static void nki_u_setup(const netkit_loop *loop, nki_u *u) {
    bool is_sharing = loop->desc.ring_incremental && loop->desc.ring_sqpoll_ms == 0;
    nki_u_choose_pool(u, is_sharing && nki_shares_work());
    u->want_first = NKI_NO_SLOT;
    u->want_last = NKI_NO_SLOT;
    u->lent = NKI_POOL_NONE;
    u->shape.msg_namelen = NKI_U_NAME_SIZE;
    u->shape.msg_controllen = NKI_DGRAM_CONTROL;
    u->has_recv_multishot = nki_uring_has(&u->ring, NKI_URING_OP_6_0);
    u->has_accept_multishot = nki_uring_has(&u->ring, NKI_URING_OP_5_19);
    u->has_skip = (u->ring.features & NKI_URING_FEAT_CQE_SKIP) != 0;
    u->has_connect = nki_uring_has(&u->ring, NKI_URING_CONNECT);
    /* A ring that is not enabled says so, where messages are known. */
    bool has_message = nki_uring_message(u->ring.fd, NKI_U_IGNORED) == EBADFD;
    u->message_fd = has_message ? u->ring.fd : -1;
    u->has_zerocopy =
        loop->desc.ring_zerocopy_min != 0 && nki_uring_has(&u->ring, NKI_URING_SEND_ZC);
    if (loop->desc.ring_files != 0 && has_message) { /* both need 6.13, see files.c */
        uint32_t count = NKI_MIN(loop->desc.ring_files, loop->desc.objects_max);
        nki_files_open(&u->files, &u->ring, count, &loop->allocator);
    }
}

static int nki_u_open(netkit_loop *loop) {
    const char *where;
    nki_u *u = (nki_u *)nki_alloc_zero(&loop->allocator, sizeof *u);
    if (u == NULL) {
        return nki_u_refused(loop, "malloc", ENOMEM);
    }
#if !NKI_HAS_THREADS
    if (loop->desc.ring_sqpoll_ms != 0) { /* that thread is one more that shares memory with us */
        nki_free(&loop->allocator, u, sizeof *u);
        return nki_u_refused(loop, "a polling thread without threads", ENOSYS);
    }
#endif
    u->wish.sqpoll_ms = loop->desc.ring_sqpoll_ms;
    u->wish.sqpoll_cpu = loop->desc.ring_sqpoll_cpu;
    u->wish.napi_us = loop->desc.ring_napi_us;
    int os_code = nki_uring_open(&u->ring, &u->wish, &where);
    bool is_old = (u->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) == 0 && u->wish.sqpoll_ms == 0;
    if (os_code == 0 && is_old && loop->desc.backend == NETKIT_BACKEND_FASTEST) {
        nki_uring_close(&u->ring);
        where = "DEFER_TASKRUN";
        os_code = ENOSYS;
    }
    if (os_code == 0 && nki_os_wake_open(&loop->wake) != NETKIT_OK) {
        where = "eventfd";
        os_code = errno;
        nki_uring_close(&u->ring);
    }
    if (os_code != 0) {
        nki_free(&loop->allocator, u, sizeof *u);
        return nki_u_refused(loop, where, os_code);
    }
    nki_u_setup(loop, u);
    nki_u_guard_open(u);
    loop->driver_state = u;
    return NETKIT_OK;
}

static void nki_u_close(netkit_loop *loop) {
    nki_u *u = nki_u_of(loop);
    nki_u_reclaim(loop, u);
    if (nki_u_is_child(u)) {
        /* Its memory was not inherited; the descriptor was. */
        u->ring.map = NULL;
        u->ring.sqes = NULL;
        u->ring.enter_flags = 0;
    }
    nki_uring_close(&u->ring);
    nki_os_wake_close(&loop->wake);
    nki_pool_free(&u->pool, &loop->allocator);
    nki_files_free(&u->files, &loop->allocator);
    for (uint32_t i = 0; i < u->slabs_count; i++) {
        nki_free(&loop->allocator, u->slabs[i], sizeof(nki_u_slot) << NKI_SLAB_BITS);
    }
    nki_free(&loop->allocator, u->slabs, u->slabs_count * sizeof(void *));
    nki_fd_table_free(&u->watched, &loop->allocator);
    if (u->guard != NULL) {
        (void)NKI_SYS_munmap(u->guard, (size_t)1);
    }
    nki_free(&loop->allocator, u, sizeof *u);
    loop->driver_state = NULL;
}

/* Whether nothing is in flight, so that another ring can take this one's place. */
static bool nki_u_is_quiet(const netkit_loop *loop, const nki_u *u) {
    netkit_event_type out = loop->pulled.type;
    if (loop->udp_batch != NULL || out == NETKIT_EVENT_DATA || out == NETKIT_EVENT_DATAGRAM) {
        return false; /* lies in the buffers */
    }
    for (uint32_t i = 0; i < loop->sources.capacity && (i >> NKI_SLAB_BITS) < u->slabs_count; i++) {
        const nki_source *source = (const nki_source *)(void *)nki_slots_at(&loop->sources, i);
        if (source->token != 0 && nki_u_at(u, i)->busy != 0) {
            return false;
        }
    }
    /* Among it the end of a receive perhaps, of a conn that is gone. */
    return nki_uring_unsubmitted(&u->ring) == 0;
}

static int nki_u_renew(netkit_loop *loop, nki_u *u) {
    nki_uring fresh;
    const char *where;
    if (!nki_u_is_quiet(loop, u)) {
        return NETKIT_E_BUSY;
    }
    nki_u_reclaim(loop, u);
    nki_u_evict_all(loop, u); /* the buffers go with the ring */
    if (u->pool.held != 0) {
        return NETKIT_E_NOMEM;
    }
    int os_code = nki_uring_open(&fresh, &u->wish, &where);
    if (os_code == 0) {
        bool is_bare = nki_files_withdraw(&u->files, &u->ring);
        os_code = nki_uring_replace(&u->ring, &fresh);
        if (os_code == 0 || is_bare) {
            (void)nki_files_register(&u->files, &u->ring, &loop->allocator);
        }
    }
    if (os_code != 0) {
        errno = os_code;
        return nki_os_error();
    }
    nki_pool_free(&u->pool, &loop->allocator);
    u->begun = u->ring.sqe_tail;
    u->is_wake_armed = false;
    loop->is_unsubmitted = 1; /* and its arming is due, also for who waits elsewhere */
    u->next = 0;
    u->end = 0;
    return NETKIT_OK;
}

/* Another thread takes over. A ring that was enabled belongs to the first one for good. */
static int nki_u_rebind(netkit_loop *loop) {
    nki_u *u = nki_u_of(loop);
    if (nki_u_is_child(u)) {
        return NETKIT_E_NOSYS;
    }
    bool is_ours = !u->ring.is_enabled || u->ring.thread == NKI_SYS_gettid();
    return is_ours ? (int)NETKIT_OK : nki_u_renew(loop, u);
}

/* With DEFER_TASKRUN nothing becomes a completion before the ring's thread calls, and a poll(2) of
 * the ring sleeps on (seen on 6.18; an eventfd that is registered with it misses what comes through
 * other eventfds). So who is to be waited for like that has a ring without. */
static int nki_u_native(netkit_loop *loop, uintptr_t *out) {
    nki_u *u = nki_u_of(loop);
    if (u->is_lost || nki_u_is_child(u)) {
        return NETKIT_E_NOSYS;
    }
    if ((u->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) != 0) {
        u->wish.is_foreign = true;
        /* In a callback somebody may be looking at the buffers of the old one. */
        int error = loop->in_callback != 0 ? (int)NETKIT_E_BUSY : nki_u_renew(loop, u);
        if (error != NETKIT_OK) {
            u->wish.is_foreign = false;
            return error;
        }
    }
    if (!u->is_wake_armed) {
        loop->is_unsubmitted = 1;
    }
    *out = (uintptr_t)u->ring.fd;
    return NETKIT_OK;
}

/* ---- waiting ---- */

/* A message to the ring wakes a thread that waits there for two thirds of the processor time of an
 * eventfd: 9.9 us of both threads instead of 16 (Linux 6.18; make bench ROW=tried). The eventfd is
 * for kernels that cannot (before 6.13), a ring that is not enabled yet, and messages that fail. It
 * is also for wakes that may be many, since each message holds memory of the kernel's until it is
 * taken, and for those that a move to another ring must not lose. */
static int nki_u_wake(netkit_loop *loop, bool is_coalesced) {
    const nki_u *u = nki_u_of(loop);
    int fd = is_coalesced ? nki_atomic_load_relaxed(&u->message_fd) : -1;
    int os_code = errno;
    nki_atomic_fence(); /* what it is woken for comes first, whichever ring this meets */
    bool is_sent = fd >= 0 && !nki_u_is_child(u) && nki_uring_message(fd, NKI_U_IGNORED) == 0;
    errno = os_code;
    return is_sent ? (int)NETKIT_OK : nki_os_wake_signal(&loop->wake);
}

static void nki_u_arm_wake(netkit_loop *loop, nki_u *u) {
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe != NULL) {
        sqe->opcode = NKI_URING_POLL_ADD;
        sqe->fd = nki_os_fd(loop->wake.reader);
        sqe->len = NKI_URING_POLL_MULTISHOT;
        sqe->op_flags = nki_u_poll_bits(NETKIT_POLL_READ);
        sqe->user_data = NKI_U_WAKE;
        u->is_wake_armed = true;
    }
}

/* Everything that is wanted goes into the ring, and with it to the kernel. */
static int nki_u_enter(netkit_loop *loop, nki_u *u, uint64_t timeout_ns) {
    nki_pool_publish(&u->pool); /* first: a full ring is submitted on the way */
    nki_u_begin_all(loop, u);
    u->begun = u->ring.sqe_tail;
    loop->is_unsubmitted = u->want_first != NKI_NO_SLOT;
    if (loop->is_unsubmitted || !u->is_wake_armed || nki_uring_unread(&u->ring) != 0) {
        timeout_ns = 0;
    }
    int os_code = nki_uring_enter(&u->ring, timeout_ns);
    /* The kernel does 20 pieces of deferred work for one call (6.13 and later). Who does not wait
     * gets all there is, else "nothing more to do" could not be told from "more another time". */
    bool is_refused = nki_uring_unsubmitted(&u->ring) != 0; /* then it does none */
    for (int i = 0;
         os_code == 0 && timeout_ns == 0 && i < NKI_U_ENTERS_MAX && !is_refused &&
         nki_uring_has_work(&u->ring) && nki_uring_unread(&u->ring) < loop->desc.events_max;
         i++) {
        os_code = nki_uring_enter(&u->ring, 0);
    }
    if ((u->ring.flags & NKI_URING_SETUP_SQPOLL) != 0) {
        is_refused = false; /* the kernel's thread takes them later */
    }
    if (NKI_UNLIKELY(is_refused || !u->is_wake_armed)) {
        loop->is_unsubmitted = 1;
    }
    return os_code;
}

/* Few large messages at a time: taken up all at once, their bytes would be out of the caches when
 * their turn comes (make bench ROW="ring-64K-50c ring-4K-50c-16p"). But a quarter of what has
 * completed at least: more may with each wait, and would pile up. Who runs turn by turn, a game
 * once in a frame perhaps, has all in one. */
static void nki_u_limit_reads(const netkit_loop *loop, nki_u *u) {
    uint32_t most = NKI_MAX(nki_uring_unread(&u->ring) / 4, (uint32_t)NKI_U_READS_MIN);
    u->reads_max = loop->is_run ? most : UINT32_MAX;
    u->reads = 0;
}

/* Before a timer is due nothing is left for the next turn: what has come came before it. */
static bool nki_u_is_enough(netkit_loop *loop, const nki_u *u) {
    if (NKI_LIKELY(u->reads < u->reads_max)) {
        return false;
    }
    const nki_timer_node *first = nki_timers_first(&loop->timers);
    return first == NULL || first->due_ns > loop->turn_ns;
}

static nki_source *nki_u_next(netkit_loop *loop) {
    nki_u *u = nki_u_of(loop);
    if (NKI_UNLIKELY(nki_u_is_enough(loop, u) || nki_u_is_child(u))) {
        u->end = u->next; /* in a child: these are the parent's */
    }
    while (u->next != u->end) {
        nki_uring_cqe cqe = u->ring.cqes[u->next & u->ring.cq_mask];
        u->next++;
        nki_atomic_store(u->ring.cq_head, u->next);
        nki_source *source = nki_u_completed(loop, u, &cqe);
        if (source != NULL) {
            return source;
        }
    }
    return NULL;
}

/* A loop that is being destroyed cannot wait for completions that a failing ring never brings.
 * With the ring closed the kernel runs none of its operations any more: those that waited for
 * their descriptor are cancelled without touching memory. So all of them are over. */
static void nki_u_lose(netkit_loop *loop, nki_u *u) {
    u->next = *u->ring.cq_head;
    u->end = u->next + nki_uring_unread(&u->ring);
    nki_u_limit_reads(loop, u);
    while (nki_u_next(loop) != NULL) { /* accepted connections are among what has completed */
    }
    nki_atomic_store_relaxed(&u->message_fd, -1);
    (void)nki_files_withdraw(&u->files, &u->ring);
    nki_uring_close(&u->ring);
    u->is_lost = true;
    u->next = u->end;
    for (uint32_t i = 0; i < loop->sources.capacity && (i >> NKI_SLAB_BITS) < u->slabs_count; i++) {
        nki_source *source = (nki_source *)(void *)nki_slots_at(&loop->sources, i);
        nki_u_slot *s = nki_u_at(u, i);
        s->state |= s->is_lending ? NKI_U_RESET : 0; /* else lent memory waits in the socket */
        s->busy = 0;
        if (source->token != 0 && (s->state & NKI_U_CLOSING) != 0) {
            nki_u_finish(loop, source, s);
        }
    }
}

/* A loop that is being destroyed waits for its operations to end, but not without bounds: neither
 * for a kernel that says EAGAIN for ever nor for an end that never comes. */
static bool nki_u_is_overdue(nki_u *u) {
    uint64_t now = nki_os_now_ns();
    if (u->quiet_ns == 0 || nki_uring_unread(&u->ring) != 0) {
        u->quiet_ns = now;
    }
    return now - u->quiet_ns > NKI_U_DESTROY_NS;
}

static int nki_u_wait(netkit_loop *loop, uint64_t timeout_ns) {
    nki_u *u = nki_u_of(loop);
    if (NKI_UNLIKELY(u->is_lost)) {
        return 0;
    }
    if (NKI_UNLIKELY(loop->is_destroying && u->quiet_ns != 0 && u->batch == 0)) {
        timeout_ns = NKI_NS_PER_MS; /* it has looked already: no need to spin */
    }
    if (nki_u_is_child(u)) {
        errno = ENOSYS;
        return NETKIT_E_NOSYS;
    }
    int os_code = nki_uring_enable(&u->ring);
    if (os_code == 0) {
        if (NKI_LIKELY(loop->udp_batch == NULL)) { /* else a run was stopped in the middle of it */
            nki_u_reclaim(loop, u);
            if (NKI_UNLIKELY(u->pool.held != 0)) {
                nki_u_evict_all(loop, u);
            }
        }
        if (NKI_UNLIKELY(!u->is_wake_armed)) {
            nki_u_arm_wake(loop, u);
        }
        os_code = nki_u_enter(loop, u, timeout_ns);
    }
    if (NKI_UNLIKELY(loop->is_destroying) && (os_code != 0 || nki_u_is_overdue(u))) {
        nki_u_lose(loop, u);
        return 0;
    }
    if (NKI_UNLIKELY(u->ring.has_lost)) { /* completions; of receives into shares, perhaps */
        u->pool.is_broken = u->pool.is_sharing;
    }
    u->overflows += (nki_atomic_load(u->ring.sq_flags) & NKI_URING_SQ_CQ_OVERFLOW) != 0;
    u->next = *u->ring.cq_head;
    uint32_t count = NKI_MIN(nki_uring_unread(&u->ring), loop->desc.events_max);
    u->end = u->next + count;
    u->batch = count;
    nki_u_limit_reads(loop, u);
    errno = os_code != 0 ? os_code : errno;
    return os_code != 0 ? nki_os_error() : (int)count;
}

/* The end of a send that has completed: it is marked as nobody's. False: it is something else. */
static bool nki_u_take_sent(netkit_loop *loop, nki_u *u, nki_uring_cqe *cqe) {
    unsigned op = (unsigned)(cqe->user_data >> NKI_SLOT_BITS) & 15u;
    nki_source *source = op == NKI_U_SEND ? nki_token_find(loop, cqe->user_data) : NULL;
    nki_u_slot *s = source == NULL ? NULL : nki_u_slot_of(u, source);
    if (s == NULL || (s->state & NKI_U_CLOSING) != 0) {
        return false;
    }
    source = nki_u_sent(loop, u, source, s, cqe);
    if (source != NULL) {
        nki_enqueue(loop, source);
    }
    cqe->user_data = NKI_U_IGNORED;
    cqe->flags = 0;
    return true;
}

/* Whoever leaves the loop now, or flushes in the middle of a turn, finds gone what has gone, and
 * the conns free to send more: the next wait may be long in coming. */
static void nki_u_take_all_sent(netkit_loop *loop, nki_u *u) {
    const nki_uring *r = &u->ring;
    uint32_t head = *r->cq_head, tail = nki_atomic_load(r->cq_tail);
    for (uint32_t i = head; i != tail && u->sends != 0; i++) {
        bool is_taken = nki_u_take_sent(loop, u, &r->cqes[i & r->cq_mask]);
        head += is_taken && head == i;
    }
    if (loop->phase == NKI_TURN_NONE) { /* else the turn is on its way through them */
        nki_atomic_store(r->cq_head, head);
        u->next = head;
        u->end = head;
    }
}

/* Nobody is going to wait soon. */
static void nki_u_commit(netkit_loop *loop) {
    nki_u *u = nki_u_of(loop);
    if (!u->ring.is_enabled || nki_u_is_child(u)) {
        return;
    }
    if (u->want_first != NKI_NO_SLOT || nki_uring_unsubmitted(&u->ring) != 0) {
        (void)nki_u_enter(loop, u, 0);
    } else {
        loop->is_unsubmitted = !u->is_wake_armed; /* only a wait can arm it */
    }
    if (loop->reserved == NULL) { /* else it may lie behind what is being sent */
        nki_u_take_all_sent(loop, u);
    }
    /* A run that was stopped may have left some: who waits elsewhere is not told of them again. */
    if (loop->phase == NKI_TURN_NONE && nki_uring_unread(&u->ring) != 0) {
        loop->is_unsubmitted = 1;
    }
}

/* Whether the kernel is told soon of what is begun now, by a wait or a commit. Who pulls events may
 * do anything between two of them. */
static bool nki_u_is_soon(const netkit_loop *loop) {
    return loop->is_running && !loop->desc.pull;
}

/* ---- descriptors ---- */

/* A driver's half for this slot, cleared. */
static int nki_u_reserve(netkit_loop *loop, nki_u *u, uint32_t slot, nki_u_slot **out) {
    uint32_t count = (slot >> NKI_SLAB_BITS) + 1;
    while (u->slabs_count < count) {
        size_t size = sizeof(nki_u_slot) << NKI_SLAB_BITS;
        size_t table = u->slabs_count * sizeof(void *);
        nki_u_slot *slab = (nki_u_slot *)nki_alloc_zero(&loop->allocator, size);
        nki_u_slot **slabs = (nki_u_slot **)nki_alloc(&loop->allocator, table + sizeof(void *));
        if (slab == NULL || slabs == NULL) {
            nki_free(&loop->allocator, slab, size);
            nki_free(&loop->allocator, slabs, table + sizeof(void *));
            return NETKIT_E_NOMEM;
        }
        if (u->slabs != NULL) {
            memcpy(slabs, u->slabs, table);
        }
        nki_free(&loop->allocator, u->slabs, table);
        u->slabs = slabs;
        u->slabs[u->slabs_count++] = slab;
    }
    nki_u_slot *s = nki_u_at(u, slot);
    nki_u_slot old = *s;
    memset(s, 0, sizeof *s);
    s->next = old.next; /* it may be in the list still */
    s->want = old.want & NKI_U_PENDING;
    s->polls = old.polls;
    s->owed = old.owed;
    s->first = NKI_POOL_NONE;
    *out = s;
    return NETKIT_OK;
}

static int nki_u_attach(netkit_loop *loop, nki_source *source) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s;
    bool is_conn = nki_id_kind(source->id) == NKI_KIND_CONN;
    uint32_t flags = is_conn ? ((const nki_conn *)(const void *)source)->flags : 0;
    int error = nki_u_reserve(loop, u, nki_id_slot(source->id), &s);
    if (error == NETKIT_OK && (flags & NKI_C_CONNECTING) != 0 && u->to_len != 0) {
        error = nki_u_blob_push(&loop->allocator, &s->blob, &u->to, u->to_len);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    (void)nki_token_new(loop, source);
    if (is_conn && (flags & NKI_C_TCP) == 0) {
        s->state |= NKI_U_POLLED;
    }
    if (is_conn && !nki_u_is_child(u)) {
        nki_files_add(&u->files, &u->ring, nki_id_slot(source->id), nki_os_fd(source->socket));
    }
    s->events = NETKIT_POLL_READ; /* of a udp */
    nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    return NETKIT_OK;
}

/* Submit the cancelling and take the ends of these operations out of what has completed, so that
 * the descriptor is closed, and the peer knows, before the call returns. A ring that fails may
 * have accepted connections there, too. */
static void nki_u_settle(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s) {
    nki_uring *r = &u->ring;
    nki_pool_publish(&u->pool);
    (void)nki_uring_enter(r, 0);
    uint32_t tail = nki_atomic_load(r->cq_tail);
    for (uint32_t i = *r->cq_head; i != tail && s->busy != 0; i++) {
        nki_uring_cqe *cqe = &r->cqes[i & r->cq_mask];
        if (nki_token_find(loop, cqe->user_data) == source) {
            nki_uring_cqe seen = *cqe;
            seen.flags &= ~NKI_URING_CQE_BUFFER; /* goes back when its turn comes: see buffers.c */
            nki_u_completed_closing(loop, u, source, s, &seen);
            cqe->user_data = NKI_U_IGNORED;
            cqe->flags &= ~NKI_URING_CQE_MORE;
        }
    }
}

/* What is in flight is being cancelled: may the descriptor be closed before its end? Within a turn
 * the next wait submits the cancelling, and then the peer knows; until then a receive or a poll
 * holds the connection, but no memory of the conn's, and it must not be one that the kernel has not
 * taken yet: that would begin on whatever has the descriptor's number by then. This spares a call
 * of `enter`: to abort one of many costs 5.6 us instead of 8.3 (Linux 6.18, loopback). Not so a
 * listener or a udp, which hold addresses that may be wanted again at once; and not where a polling
 * thread has the last hold of the connection: it was seen to fall asleep over letting go. */
static bool nki_u_may_leave(const netkit_loop *loop, const nki_u *u, const nki_source *source,
                            const nki_u_slot *s) {
    const uint8_t harmless = NKI_U_BIT(NKI_U_RECV) | NKI_U_BIT(NKI_U_POLL);
    bool is_taken = (int32_t)(nki_atomic_load(u->ring.sq_head) - u->begun) >= 0;
    bool is_polled = (u->ring.flags & NKI_URING_SETUP_SQPOLL) != 0;
    return nki_u_is_soon(loop) && !loop->is_destroying && is_taken && !is_polled &&
           nki_id_kind(source->id) == NKI_KIND_CONN && (s->busy & ~harmless) == 0;
}

static void nki_u_forget_sockets(netkit_loop *loop, nki_u_slot *s) {
    int fd;
    while (nki_u_blob_len(s->blob) != 0) {
        memcpy(&fd, nki_u_blob_data(s->blob), sizeof fd);
        s->blob->begin += sizeof fd;
        (void)nki_os_reset((uintptr_t)fd);
    }
    nki_u_drop_blob(loop, s);
}

static void nki_u_shut(netkit_loop *loop, nki_source *source, bool reset) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, source);
    bool is_child = nki_u_is_child(u);
    s->state |= NKI_U_CLOSING | (reset && !is_child ? NKI_U_RESET : 0); /* it is the parent's too */
    s->want &= NKI_U_PENDING;
    if (nki_id_kind(source->id) == NKI_KIND_LISTENER) {
        nki_u_forget_sockets(loop, s);
    } else if ((s->busy & NKI_U_BIT(NKI_U_CONNECT)) == 0) { /* whose address is read perhaps */
        nki_u_forget(loop, u, s);
    }
    if (s->busy != 0 && !is_child) {
        if (!nki_u_cancel_all(loop, u, source, s)) {
            nki_u_want(loop, u, source, s, 0);
        } else if (nki_u_may_leave(loop, u, source, s)) {
            s->busy = 0;
        }
        if (s->busy != 0 && !loop->is_destroying) {
            nki_u_settle(loop, u, source, s);
        }
    }
    if (s->busy == 0 || is_child) {
        nki_u_finish(loop, source, s);
    } else {
        nki_u_stop_lending(u, source, s);
    }
}

/* ---- watches ---- */

/* What epoll_ctl(2) would say of it. */
static int nki_u_watchable(uintptr_t native) {
    struct stat st;
    if (NKI_SYS_fstat(nki_os_fd(native), &st) != 0) {
        return nki_os_error();
    }
    return S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) ? (int)NETKIT_E_ACCESS : NETKIT_OK;
}

static int nki_u_watch_new(netkit_loop *loop, nki_u *u, nki_source *source, uint32_t events) {
    nki_u_slot *s;
    if (nki_fd_table_get(&u->watched, source->socket) != 0) {
        return NETKIT_E_EXISTS;
    }
    int error = nki_u_watchable(source->socket);
    if (error == NETKIT_OK) {
        error = nki_fd_table_reserve(&u->watched, source->socket, &loop->allocator);
    }
    if (error == NETKIT_OK) {
        error = nki_u_reserve(loop, u, nki_id_slot(source->id), &s);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    u->watched.places[source->socket] = 1;
    (void)nki_token_new(loop, source);
    s->events = events;
    nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    return NETKIT_OK;
}

static int nki_u_watch(netkit_loop *loop, nki_source *source, uint32_t events, bool is_new) {
    nki_u *u = nki_u_of(loop);
    if (is_new) {
        return nki_u_watch_new(loop, u, source, events);
    }
    nki_u_slot *s = nki_u_slot_of(u, source);
    s->events = events;
    nki_u_give_up_poll(loop, u, source, s);
    nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    return NETKIT_OK;
}

static void nki_u_unwatch(netkit_loop *loop, nki_source *source) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, source);
    u->watched.places[source->socket] = 0;
    if (!nki_u_is_child(u)) {
        nki_u_give_up_poll(loop, u, source, s);
        if (!loop->is_running) {
            nki_u_commit(loop); /* until then the descriptor would stay open after a close */
        }
    }
    s->want &= NKI_U_PENDING;
    source->token = 0;
}

/* ---- streams ---- */

/* Tests fail calls by name: one that a completion stands for fails where it would have been. */
static int nki_u_accept_parked(nki_u_slot *s, nki_listener *l, uintptr_t *out, netkit_addr *peer) {
    int fd;
    if (NKI_FAIL(accept) && !nki_u_is_passing(errno)) {
        return nki_os_accept_error(l->source.socket);
    }
    memcpy(&fd, nki_u_blob_data(s->blob), sizeof fd);
    int error = peer == NULL ? NETKIT_OK : nki_os_remote((uintptr_t)fd, peer);
    if (error != NETKIT_OK && error != NETKIT_E_NOTCONN) {
        return error; /* it stays for another time, as in the backlog */
    }
    s->blob->begin += sizeof fd;
    if (s->blob->begin == s->blob->end) {
        s->blob->begin = 0;
        s->blob->end = 0;
        if ((s->busy & NKI_U_BIT(NKI_U_ACCEPT)) != 0 && s->error == 0) {
            l->source.ready = 0;
        }
    }
    if (error != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fd); /* gone again: an accept of its own would have said so */
        return NETKIT_E_ABORTED;
    }
    *out = (uintptr_t)fd;
    return NETKIT_OK;
}

static int nki_u_accept(netkit_loop *loop, nki_listener *l, uintptr_t *out, netkit_addr *peer) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &l->source);
    *out = UINTPTR_MAX;
    if (nki_u_blob_len(s->blob) != 0) {
        return nki_u_accept_parked(s, l, out, peer);
    }
    if (s->error != 0) {
        errno = s->error;
        s->error = 0;
        return nki_os_accept_error(l->source.socket);
    }
    if ((s->busy & NKI_U_BIT(NKI_U_ACCEPT)) != 0) {
        l->source.ready = 0;
        return NETKIT_E_AGAIN;
    }
    int error = nki_os_accept(l->source.socket, out, peer);
    if (error == NETKIT_E_AGAIN) {
        l->source.ready = 0;
        nki_u_want(loop, u, &l->source, s, NKI_U_WANT_INPUT);
    }
    return error;
}

/* Within a turn the next wait connects, which spares connect(2) and two of the three calls that ask
 * how it ended: a connection from dialling to aborting costs 27 us instead of 29.5 (Linux 6.18,
 * loopback, 50 at a time, both sides). What the system says of the address comes by on_close then.
 * Between turns the call connects, as who dials there may not run the loop soon; and to unix
 * sockets always, which answer at once. */
static int nki_u_connect(netkit_loop *loop, nki_conn *c, const netkit_addr *to,
                         const netkit_addr *source) {
    nki_u *u = nki_u_of(loop);
    bool is_later = u->has_connect && nki_u_is_soon(loop) && (c->flags & NKI_C_TCP) != 0;
    u->to_len = 0;
    if (source != NULL && source->port != 0) {
        nki_u_commit(loop); /* a conn that has just died may hold that port, see nki_u_may_leave */
    }
    if (!is_later || nki_u_is_child(u)) {
        return nki_r_connect(loop, c, to, source);
    }
    int error = nki_sockaddr_from(&u->to, &u->to_len, to);
    if (error == NETKIT_OK) {
        error = nki_r_connecting(c, to->family, source);
    }
    return error == NETKIT_OK ? NETKIT_E_AGAIN : error;
}

/* How the operation has ended; or the call would have, for tests that fail calls by name. */
static int nki_u_dial_result(netkit_loop *loop, const nki_conn *c, nki_u_slot *s) {
    struct sockaddr_in to; /* its port is where that of IPv6 is */
    netkit_addr self;
    memcpy(&to, nki_u_blob_data(s->blob), sizeof to);
    nki_u_drop_blob(loop, s);
    s->state = (uint16_t)(s->state & ~NKI_U_DIALLED);
    if (s->error != 0) {
        errno = s->error;
        return errno == EAGAIN ? (int)NETKIT_E_ADDRNOTAVAIL : nki_os_error();
    }
    if (NKI_FAIL(connect) && !nki_u_is_passing(errno)) {
        return nki_os_error();
    }
    /* Connected to itself, see nki_os_check_peer? Then the ports are the same. */
    int error = nki_os_local(c->source.socket, &self);
    return error == NETKIT_OK && self.port == ntohs(to.sin_port)
               ? nki_os_connect_result(c->source.socket)
               : error;
}

static int nki_u_connected(netkit_loop *loop, nki_conn *c) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    int error = (s->state & NKI_U_DIALLED) != 0 ? nki_u_dial_result(loop, c, s)
                                                : nki_os_connect_result(c->source.socket);
    if (error == NETKIT_OK) {
        nki_u_give_up_poll(loop, u, &c->source, s);
    }
    if (error == NETKIT_OK || error == NETKIT_E_AGAIN) {
        c->source.ready = 0;
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
    }
    return error;
}

static int nki_u_failed(netkit_loop *loop, nki_conn *c) {
    NKI_UNUSED(loop);
    return nki_os_connect_result(c->source.socket);
}

/* From the socket itself, while no receive is in flight. */
static int nki_u_read_now(netkit_loop *loop, nki_u *u, nki_conn *c, nki_u_slot *s, size_t max) {
    unsigned char *buffer = nki_block_data(loop->recv);
    loop->span.data = buffer;
    int n = nki_os_recv(c->source.socket, buffer, max);
    /* A poll that follows looks first, so what is left after a short read is not lost. */
    bool is_short = n > 0 && n < NKI_RECV_SIZE && max == NKI_RECV_SIZE;
    bool is_all = is_short && (s->busy & NKI_U_BIT(NKI_U_POLL)) == 0;
    if (n >= NKI_U_BULK_MIN) {
        u->reads++;
        s->bulk = NKI_U_BULK;
    } else if (n > 0 && s->bulk != 0) {
        s->bulk--;
    }
    if (n == NETKIT_E_EOF) { /* a reset behind it may be there already */
        s->state |= NKI_U_ENDED;
        nki_u_give_up_poll(loop, u, &c->source, s);
    }
    if (is_all || n == NETKIT_E_AGAIN || n == NETKIT_E_EOF) {
        c->source.ready = 0;
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
    }
    return n;
}

/* Unix conns are polled and read by calls, so here as well. */
static int nki_u_read_fds(netkit_loop *loop, nki_conn *c, size_t max, uintptr_t *fds,
                          size_t *count) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    nki_u_reclaim(loop, u);
    int n = nki_r_read_fds(loop, c, max, fds, count);
    if (n == NETKIT_E_EOF) {
        s->state |= NKI_U_ENDED;
    }
    if (n == NETKIT_E_AGAIN || n == NETKIT_E_EOF) {
        c->source.ready = 0;
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
    }
    return n;
}

static int nki_u_read_odd(netkit_loop *loop, nki_u *u, nki_conn *c, nki_u_slot *s, size_t max) {
    if (s->blob != NULL) {
        size_t len = nki_u_blob_len(s->blob);
        size_t most = NKI_CLIP(recv, max); /* once: the macro may draw lots */
        size_t n = NKI_MIN(len, most);
        bool is_last = len <= most;
        loop->span.data = nki_u_blob_data(s->blob);
        s->blob->begin += n;
        if (is_last) {
            u->lent_blob = s->blob;
            s->blob = NULL;
        } else {
            u->reading = s;
        }
        nki_u_update_ready(&c->source, s);
        return (int)n;
    }
    if ((s->state & NKI_U_EOF) != 0) {
        s->state = (uint16_t)((s->state & ~NKI_U_EOF) | NKI_U_ENDED);
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
        return NETKIT_E_EOF;
    }
    if (s->error != 0) {
        errno = s->error;
        s->error = 0;
        return nki_os_error();
    }
    if ((s->busy & NKI_U_BIT(NKI_U_RECV)) != 0) {
        c->source.ready = 0;
        return NETKIT_E_AGAIN;
    }
    return nki_u_read_now(loop, u, c, s, max);
}

static int nki_u_read(netkit_loop *loop, nki_conn *c, size_t max) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    nki_u_reclaim(loop, u);
    if (NKI_UNLIKELY(s->first == NKI_POOL_NONE || s->blob != NULL)) {
        return nki_u_read_odd(loop, u, c, s, max);
    }
    if (NKI_FAIL(recv) && !nki_u_is_passing(errno)) {
        return nki_os_error();
    }
    nki_pool_record *record = &u->pool.records[s->first];
    size_t len = record->end - record->begin;
    size_t most = NKI_CLIP(recv, max);
    size_t n = NKI_MIN(len, most);
    loop->span.data = nki_pool_data(&u->pool, s->first) + record->begin;
    if (NKI_LIKELY(n == len)) {
        (void)nki_u_lend(u, s);
    } else {
        record->begin += (uint32_t)n;
        u->reading = s;
    }
    nki_u_update_ready(&c->source, s);
    return (int)n;
}

/* A buffer whose only bytes are the span's goes to the user, unless it is nearly empty. */
static int nki_u_keep(netkit_loop *loop, uint64_t room, nki_block **out) {
    nki_u *u = nki_u_of(loop);
    const unsigned char *span = (const unsigned char *)loop->span.data;
    if (u->lent == NKI_POOL_NONE || loop->span.len <= u->pool.size / 4 || u->pool.is_sharing) {
        return nki_keep_shared(loop, room, out);
    }
    const unsigned char *data = nki_pool_data(&u->pool, u->lent);
    if ((uintptr_t)span < (uintptr_t)data || (uintptr_t)span >= (uintptr_t)data + u->pool.size) {
        return nki_keep_shared(loop, room, out);
    }
    if (room < u->pool.size) {
        return NETKIT_E_FULL;
    }
    *out = nki_pool_swap(&u->pool, u->lent, loop->keeper);
    return *out == NULL ? (int)NETKIT_E_NOMEM : NETKIT_OK;
}

static int nki_u_send_failed(nki_u_slot *s) {
    errno = s->send_error;
    s->send_error = 0;
    return nki_os_error();
}

/* Whether a send is left to the next wait: one that comes soon, and has more to tell the kernel
 * than this. Alone, a send by a call costs less than the second look for its completion. */
static bool nki_u_is_later(const netkit_loop *loop, const nki_u *u) {
    return u->batch > 2 && loop->is_running && !loop->is_flushing;
}

/* What stands before the first chunk that is lent to the kernel goes by calls, within the turn's
 * budget. Returns NETKIT_OK: that chunk is the first, or the conn is stalled; or an error. */
static int nki_u_flush_before(netkit_loop *loop, const nki_u *u, nki_conn *c, const nki_u_slot *s) {
    uint64_t sent = 0;
    while (c->out != NULL && !nki_u_is_lendable(loop, u, c, s, c->out)) {
        if (sent >= loop->desc.conn_budget) {
            c->flags |= NKI_C_STALLED;
            c->source.ready = (uint16_t)(c->source.ready | NETKIT_POLL_WRITE);
            nki_enqueue_later(loop, &c->source);
            return NETKIT_OK;
        }
        int n = nki_r_send_some(c, nki_u_lent_min(loop, u, c, s));
        if (n < 0) {
            c->flags |= n == NETKIT_E_AGAIN ? (uint32_t)NKI_C_STALLED : 0u;
            return n == NETKIT_E_AGAIN ? NETKIT_OK : n;
        }
        sent += (uint64_t)n;
        nki_out_sent(loop, c, (size_t)n);
    }
    return NETKIT_OK;
}

static int nki_u_flush_lending(netkit_loop *loop, const nki_u *u, nki_conn *c,
                               const nki_u_slot *s) {
    int error = nki_u_flush_before(loop, u, c, s);
    if (error == NETKIT_OK && c->out != NULL && (c->flags & NKI_C_STALLED) == 0) {
        if (NKI_FAIL(send) && !nki_u_is_passing(errno)) {
            return nki_os_error();
        }
        c->flags |= NKI_C_STALLED;
    }
    return error;
}

/* A lone chunk with little in it goes with the next wait; the rest, and between turns all, by
 * calls. */
static int nki_u_flush(netkit_loop *loop, nki_conn *c) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    const nki_chunk *first = c->out;
    if (NKI_UNLIKELY(s->send_error != 0)) {
        return nki_u_send_failed(s);
    }
    if ((s->busy & NKI_U_BIT(NKI_U_SEND)) != 0) {
        /* A hang-up looked like room. The send goes on and ends by its own completion: looked at
         * over and over until then, this would be a spin. */
        c->flags |= NKI_C_STALLED;
        if ((c->source.ready & NKI_POLL_ALWAYS) != 0) {
            c->source.ready = (uint16_t)(c->source.ready & ~NKI_POLL_ALWAYS);
            nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
        }
        return NETKIT_OK;
    }
    bool is_small = first->next == NULL && first->end - first->begin <= NKI_U_SEND_MAX &&
                    !nki_out_is_alone(first);
    int error = NETKIT_OK;
    if (is_small && nki_u_is_later(loop, u) && first->end != first->begin) {
        if (NKI_FAIL(send) && !nki_u_is_passing(errno)) {
            return nki_os_error();
        }
        c->flags |= NKI_C_STALLED;
    } else if (NKI_UNLIKELY(u->has_zerocopy)) {
        error = nki_u_flush_lending(loop, u, c, s);
    } else {
        error = nki_r_flush(loop, c);
    }
    if ((c->flags & NKI_C_STALLED) != 0 && !nki_u_begin_send(loop, u, c, s)) {
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_SEND);
    }
    return error;
}

/* Have at least one chunk: as many again as there are, so that conns which seldom all send at once
 * do not find one missing long after the start. NETKIT_E_NOMEM: none. */
static NKI_COLD int nki_u_stock_chunks(netkit_loop *loop, nki_spares *spares, size_t size) {
    uint32_t more = NKI_MIN(spares->made, (uint32_t)NKI_SMALL_CHUNKS_STOCK);
    for (uint32_t i = 0; i == 0 || i < more; i++) {
        nki_chunk *chunk = (nki_chunk *)nki_alloc(&loop->allocator, size);
        if (chunk == NULL) {
            break;
        }
        chunk->capacity = size - sizeof *chunk;
        chunk->next = spares->first;
        spares->first = chunk;
        spares->count++;
        spares->made++;
    }
    return spares->first == NULL ? (int)NETKIT_E_NOMEM : (int)NETKIT_OK;
}

/* One that holds so many bytes, NKI_U_SEND_MAX at most; NULL: no memory. */
static nki_chunk *nki_u_take_chunk(netkit_loop *loop, size_t len) {
    bool is_small = len <= NKI_SMALL_CHUNK_SIZE - sizeof(nki_chunk);
    nki_spares *spares = is_small ? &loop->small_chunks : &loop->middle_chunks;
    size_t size = is_small ? NKI_SMALL_CHUNK_SIZE : NKI_MIDDLE_CHUNK_SIZE;
    if (NKI_UNLIKELY(spares->first == NULL) &&
        nki_u_stock_chunks(loop, spares, size) != NETKIT_OK) {
        return NULL;
    }
    nki_chunk *chunk = spares->first;
    spares->first = chunk->next;
    spares->count--;
    return chunk;
}

/* A copy on an empty queue, in a chunk of its size. NETKIT_OK or NETKIT_E_NOMEM. */
static int nki_u_queue(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    nki_chunk *chunk = nki_u_take_chunk(loop, len);
    if (chunk == NULL) {
        return NETKIT_E_NOMEM;
    }
    chunk->next = NULL;
    chunk->last = chunk;
    chunk->data = (const unsigned char *)(chunk + 1);
    chunk->begin = 0;
    chunk->end = len;
    chunk->file = 0;
    chunk->release = NULL;
    memcpy(chunk + 1, data, len);
    c->out = chunk;
    c->queued += (uint32_t)len;
    return NETKIT_OK;
}

/* What is staged must be copied to last until the next wait: it becomes the queue's one chunk. */
static int nki_u_send_later(netkit_loop *loop, nki_u *u, nki_conn *c, nki_u_slot *s,
                            const void *data, size_t len) {
    if (NKI_FAIL(send) && !nki_u_is_passing(errno)) {
        return nki_os_error();
    }
    if (nki_u_queue(loop, c, data, len) != NETKIT_OK) {
        return 0; /* the caller finds out for itself */
    }
    c->flags |= NKI_C_STALLED;
    if (!nki_u_begin_send(loop, u, c, s)) {
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_SEND);
    }
    return (int)len;
}

static int nki_u_send(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    if (NKI_UNLIKELY(s->send_error != 0)) {
        return nki_u_send_failed(s);
    }
    if (len <= NKI_U_SEND_MAX && nki_u_is_later(loop, u) && c->out == NULL) {
        return nki_u_send_later(loop, u, c, s, data, len);
    }
    int n = c->out == NULL ? nki_os_send(c->source.socket, data, len) : 0;
    if (n == NETKIT_E_AGAIN) {
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_SEND);
    }
    return n;
}

static const nki_driver *nki_uring_driver(void) {
    static const nki_driver driver = {
        nki_u_open,
        nki_u_close,
        nki_r_now,
        nki_r_random,
        nki_u_wait,
        nki_u_next,
        nki_u_wake,
        nki_u_native,
        nki_u_commit,
        nki_u_rebind,
        nki_u_attach,
        nki_u_shut,
        nki_r_discard,
        nki_u_arm,
        nki_u_watch,
        nki_u_unwatch,
        nki_r_listen,
        nki_u_accept,
        nki_r_adopt,
        nki_u_connect,
        nki_u_connected,
        nki_u_read,
        NULL,
        nki_u_keep,
        nki_u_flush,
        nki_u_send,
        nki_r_half_close,
        nki_r_file_open,
        nki_os_abandon,
        nki_r_udp_open,
        nki_u_udp_recv,
        nki_u_udp_send,
        nki_r_udp_failed,
        nki_r_udp_join,
        nki_r_local,
        nki_r_remote,
        nki_r_set_option,
        nki_r_get_option,
        nki_os_code,
        nki_u_read_fds,
        nki_r_dup,
        nki_r_credentials,
        nki_r_unlink,
        nki_r_process,
        nki_r_set_text,
        nki_r_get_text,
        nki_u_failed,
    };
    return &driver;
}

#endif /* NKI_HAS_URING */

/* ---- src/loop/loop.c ---- */
/* Loops: making one, running it, its last turn; posts and stop from other threads. */

static uint32_t nki_power_of_two(uint32_t value) {
    uint32_t power = 1;
    while (power < value) {
        power <<= 1;
    }
    return power;
}

static int nki_loop_desc_init(netkit_loop_desc *out, const netkit_loop_desc *given) {
    if (given != NULL) {
        *out = *given;
    } else {
        memset(out, 0, sizeof *out);
    }
    out->objects_max = nki_or(out->objects_max, 1048576);
    out->timers_max = nki_or(out->timers_max, 4194304);
    out->events_max = nki_or(out->events_max, 256);
    out->posts_max = nki_or(out->posts_max, 4096);
    out->conn_budget = nki_or(out->conn_budget, 262144);
    out->accept_budget = nki_or(out->accept_budget, 64);
    out->post_budget = nki_or(out->post_budget, 1024);
    out->timer_budget = nki_or(out->timer_budget, 4096);
    out->keep_max = nki_or(out->keep_max, 16777216);
    out->slow_callback_ms = nki_or(out->slow_callback_ms, 50);
    netkit_timeouts *t = &out->timeouts;
    t->connect_ms = nki_or(t->connect_ms, 30000);
    t->close_ms = nki_or(t->close_ms, 5000);
    t->idle_ms = t->idle_ms == NETKIT_TIMEOUT_NONE ? 0 : t->idle_ms;
    bool is_valid = out->objects_max <= NKI_SLOT_MASK && out->timers_max <= NKI_SLOT_MASK &&
                    out->events_max <= 65536 && out->posts_max <= 16777216 &&
                    t->connect_ms <= INT32_MAX && t->idle_ms <= INT32_MAX &&
                    t->close_ms != NETKIT_TIMEOUT_NONE && netkit_backend_name(out->backend) != NULL;
    if (!is_valid) {
        return NETKIT_E_INVALID;
    }
    out->posts_max = nki_power_of_two(out->posts_max);
    return NETKIT_OK;
}

/* ---- life ---- */

/* Free whatever there is: a loop half made, or one after its last turn. */
static void nki_loop_free(netkit_loop *loop) {
    netkit_allocator allocator = loop->allocator;
    if (loop->driver != NULL) {
        loop->driver->close(loop);
    }
    nki_chunks_free(loop);
    nki_dgrams_free(loop);
    nki_free(&loop->allocator, loop->stage, NKI_FLUSH_AT);
    nki_ext_free(&loop->allocator, loop->ext, loop->desc.ext_size);
    nki_keeper_destroy(loop);
    nki_slots_free_all(&loop->sources);
    nki_slots_free_all(&loop->timer_slots);
    nki_timers_free(&loop->timers);
    if (loop->posts.cells != NULL) {
        nki_posts_free(&loop->posts);
    }
    nki_free(&allocator, loop, sizeof *loop);
}

/* io_uring, or why not: in loop->why and the error. */
static int nki_loop_open_uring(netkit_loop *loop) {
#if NKI_HAS_URING
    int error = nki_uring_driver()->open(loop);
    if (error == NETKIT_OK) {
        loop->driver = nki_uring_driver();
        loop->backend = "uring";
    }
    return error;
#else
    snprintf(loop->why, sizeof loop->why, "io_uring is not part of this build");
    return NETKIT_E_NOSYS;
#endif
}

static int nki_loop_open_readiness(netkit_loop *loop) {
    const nki_driver *driver = nki_readiness_driver();
    int error = driver->open(loop);
    if (error == NETKIT_OK) {
        loop->driver = driver;
        loop->backend = loop->poller.ops->name;
    }
    return error;
}

static int nki_loop_open(netkit_loop *loop, int asked) {
    char *why = loop->why;
    bool is_tried = asked == NETKIT_BACKEND_URING || asked == NETKIT_BACKEND_FASTEST;
    int error = is_tried ? nki_loop_open_uring(loop) : (int)NETKIT_E_NOSYS;
    if (loop->driver == NULL && asked != NETKIT_BACKEND_URING) {
        loop->desc.backend = is_tried ? (int)NETKIT_BACKEND_AUTO : asked;
        error = nki_loop_open_readiness(loop);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    if (is_tried && loop->driver == nki_readiness_driver()) {
        size_t len = strlen(why);
        snprintf(why + len, sizeof loop->why - len, ", using %s", loop->backend);
    } else if (asked == NETKIT_BACKEND_FASTEST) {
        snprintf(why, sizeof loop->why, "fastest: %s works here", loop->backend);
    } else if (asked == NETKIT_BACKEND_AUTO) {
        snprintf(why, sizeof loop->why, "auto: %s is the first that works here", loop->backend);
    } else {
        snprintf(why, sizeof loop->why, "%s was asked for", loop->backend);
    }
    return NETKIT_OK;
}

/* The backend asked for, or why not. */
static int nki_loop_choose(netkit_loop *loop) {
    int error = nki_loop_open(loop, loop->desc.backend);
    int os_code = error == NETKIT_OK ? 0 : nki_os_code();
    int level = error == NETKIT_OK ? (int)NETKIT_LOG_INFO : (int)NETKIT_LOG_ERROR;
    if (loop->why[0] != '\0') {
        nki_log(loop, level, NETKIT_LOGID_BACKEND, loop->why, os_code);
    }
    return error;
}

/* Handles of this loop start where those of another one do not. */
static int nki_loop_seed(netkit_loop *loop, uint32_t generations[2]) {
    uint64_t seed = loop->desc.seed;
    if (seed == 0) {
        int error = loop->driver->random(loop, &seed, sizeof seed);
        if (error != NETKIT_OK) {
            return error;
        }
    }
    seed = (seed ^ seed >> 31) * 0x9E3779B97F4A7C15u;
    generations[0] = (uint32_t)(seed >> 32);
    generations[1] = (uint32_t)seed;
    loop->token = (uint32_t)(seed >> 17);
    return NETKIT_OK;
}

static int nki_loop_init(netkit_loop *loop) {
    uint32_t generations[2];
    nki_timers_init(&loop->timers, &loop->allocator);
    int error = nki_loop_choose(loop);
    if (error == NETKIT_OK) {
        error = nki_loop_seed(loop, generations);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    nki_slots_init(&loop->sources, &loop->allocator, NKI_SOURCE_SIZE, loop->desc.objects_max,
                   generations[0]);
    nki_slots_init(&loop->timer_slots, &loop->allocator, sizeof(nki_timer), loop->desc.timers_max,
                   generations[1]);
    loop->timer_slots.beside_size = sizeof(nki_timer_call);
    loop->stage = (unsigned char *)nki_alloc(&loop->allocator, NKI_FLUSH_AT);
    error = nki_ext_create(&loop->allocator, loop->desc.ext_size, &loop->ext);
    if (error == NETKIT_OK) {
        error = loop->stage == NULL ? NETKIT_E_NOMEM : nki_keeper_create(loop);
    }
    if (error == NETKIT_OK) {
        error = nki_posts_init(&loop->posts, &loop->allocator, loop->desc.posts_max);
    }
    loop->process = loop->driver->process(loop);
    loop->is_plain = !loop->desc.debug && !loop->is_arming && loop->driver->read_done == NULL;
    nki_refresh_time(loop);
    return error;
}

NETKIT_API int netkit_loop_create(netkit_loop **out, const netkit_loop_desc *desc) {
    netkit_loop_desc filled;
    netkit_allocator allocator;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    *out = NULL;
    int error = nki_loop_desc_init(&filled, desc);
    if (error == NETKIT_OK) {
        error = nki_allocator_init(&allocator, &filled.allocator);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    netkit_loop *loop = (netkit_loop *)nki_alloc_zero(&allocator, sizeof *loop);
    if (loop == NULL) {
        return NETKIT_E_NOMEM;
    }
    loop->desc = filled;
    loop->allocator = allocator;
    error = nki_loop_init(loop);
    if (error != NETKIT_OK) {
        nki_loop_free(loop);
        return error;
    }
    *out = loop;
    return NETKIT_OK;
}

static NKI_COLD void nki_log_leak(netkit_loop *loop, const char *what, uint64_t id) {
    char text[160];
    snprintf(text, sizeof text,
             "a %s (handle %08lx%08lx) was still open at netkit_loop_destroy: close it first, or "
             "leave this to destroy if that is meant",
             what, (unsigned long)(id >> 32), (unsigned long)(id & UINT32_MAX));
    nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_LEAKED_HANDLE, text, 0);
}

/* Closed already, and only not told yet. */
static bool nki_source_is_ending(const nki_source *source) {
    switch (nki_id_kind(source->id)) {
    case NKI_KIND_CONN:
        return (((const nki_conn *)(const void *)source)->flags & (NKI_C_DEAD | NKI_C_CLOSING)) !=
               0;
    case NKI_KIND_LISTENER: return ((const nki_listener *)(const void *)source)->is_closing != 0;
    case NKI_KIND_UDP: return (((const nki_udp *)(const void *)source)->flags & NKI_D_CLOSING) != 0;
    default: return false;
    }
}

static void nki_abort_source(netkit_loop *loop, nki_source *source) {
    static const char *const names[] = {"free slot", "conn", "listener", "watch", "timer", "udp"};
    uint32_t kind = nki_id_kind(source->id);
    if (kind == 0) {
        return;
    }
    if (loop->desc.debug && !nki_source_is_ending(source)) {
        nki_log_leak(loop, names[kind], source->id);
    }
    if (kind == NKI_KIND_CONN) {
        nki_conn_fail(loop, (nki_conn *)(void *)source, NETKIT_OP_CLOSE, NETKIT_E_CANCELLED,
                      NKI_WHY_DESTROYED, 0, true);
    } else if (kind == NKI_KIND_LISTENER) {
        nki_listener_close(loop, (nki_listener *)(void *)source);
    } else if (kind == NKI_KIND_UDP) {
        if (!nki_source_is_ending(source)) {
            ((nki_udp *)(void *)source)->flags |= NKI_D_DESTROYED;
        }
        nki_udp_close(loop, (nki_udp *)(void *)source);
    } else {
        nki_watch_stop(loop, (nki_watch *)(void *)source);
    }
}

static void nki_abort_all(netkit_loop *loop) {
    for (uint32_t i = 0; i < loop->sources.capacity; i++) {
        nki_abort_source(loop, (nki_source *)(void *)nki_slots_at(&loop->sources, i));
    }
    for (uint32_t i = 0; i < loop->timer_slots.capacity; i++) {
        nki_timer *t = (nki_timer *)(void *)nki_slots_at(&loop->timer_slots, i);
        if (nki_id_kind(t->id) != 0) {
            if (loop->desc.debug) {
                nki_log_leak(loop, "timer", t->id);
            }
            nki_timer_free(loop, t);
        }
    }
}

/* A call that runs the loop: by its owner, and not from inside a callback. */
static int nki_enter_run(netkit_loop *loop) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (loop->in_callback != 0 || loop->is_running) {
        if (loop->desc.debug) {
            nki_log(loop, NETKIT_LOG_ERROR, NETKIT_LOGID_NESTED_RUN,
                    "the loop cannot be run, polled or destroyed from inside one of its "
                    "callbacks: return, or netkit_loop_stop and do it after the run",
                    0);
        }
        return NETKIT_E_BUSY;
    }
    if (loop->owner == 0) {
        nki_atomic_store_relaxed(&loop->owner, nki_os_thread_id()); /* others may ask just now */
    }
    return NETKIT_OK;
}

NETKIT_API int netkit_loop_destroy(netkit_loop *loop) {
    if (loop == NULL) {
        return NETKIT_OK;
    }
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_atomic_store(&loop->is_destroying, 1u);
    loop->is_inherited = loop->driver->process(loop) != loop->process;
    loop->is_running = 1;
    nki_pulled_done(loop);
    loop->desc.pull = false;
    loop->desc.post_budget = UINT32_MAX;
    nki_abort_all(loop);
    do {
        if (loop->phase == NKI_TURN_NONE) {
            nki_turn_begin(loop, 0);
        }
        nki_turn_finish(loop);
    } while (loop->sources.count != 0 || nki_has_work(loop));
    nki_loop_free(loop);
    return NETKIT_OK;
}

/* ---- running ---- */

/* What a call that runs turns returns: that its waiting has failed, as that of the calls `before`
 * it, unless there is an event that can be fetched. */
static int nki_run_result(const netkit_loop *loop, uint32_t before, int result) {
    bool has_failed = loop->wait_failures > before && loop->wait_failures >= NKI_WAIT_FAILURES_MAX;
    return has_failed && !loop->is_pulled_fresh ? loop->wait_error : result;
}

NETKIT_API int netkit_loop_run(netkit_loop *loop) {
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK || loop->desc.pull) {
        return error != NETKIT_OK ? error : NETKIT_E_BUSY;
    }
    loop->is_running = 1;
    loop->is_run = 1;
    loop->wait_failures = 0; /* those of run_once and poll have been told */
    while (loop->references != 0 || nki_has_work(loop)) {
        if (loop->phase == NKI_TURN_NONE) {
            nki_turn_begin(loop, NKI_NEVER);
        }
        nki_turn_finish(loop);
        if (nki_atomic_load(&loop->stop) != 0 || loop->wait_failures >= NKI_WAIT_FAILURES_MAX) {
            break;
        }
    }
    nki_commit(loop);
    error = nki_run_result(loop, 0, NETKIT_OK);
    loop->wait_failures = 0; /* told */
    nki_atomic_store(&loop->stop, 0u);
    loop->is_run = 0;
    loop->is_running = 0;
    return error;
}

/* Pull: bring the turn to its next event. Returns whether one can be fetched. */
static int nki_loop_prepare(netkit_loop *loop, uint64_t timeout_ns, uint64_t until_ns) {
    loop->pull_until_ns = until_ns;
    loop->pull_calls = loop->calls;
    if (loop->is_pulled_fresh) {
        return 1;
    }
    nki_pulled_done(loop);
    if (loop->phase == NKI_TURN_NONE) {
        nki_turn_begin(loop, timeout_ns);
    }
    loop->is_pulled_fresh = nki_turn_pull(loop);
    return loop->is_pulled_fresh || nki_wants_turn(loop);
}

NETKIT_API int netkit_loop_run_once(netkit_loop *loop, int timeout_ms) {
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    uint64_t timeout_ns = timeout_ms < 0 ? NKI_NEVER : (uint64_t)timeout_ms * NKI_NS_PER_MS;
    uint32_t before = loop->wait_failures;
    int has_more;
    loop->is_running = 1;
    if (loop->desc.pull) {
        has_more = nki_loop_prepare(loop, timeout_ns, NKI_NEVER);
    } else {
        if (loop->phase == NKI_TURN_NONE) {
            nki_turn_begin(loop, timeout_ns);
        }
        nki_turn_finish(loop);
        nki_commit(loop);
        has_more = nki_wants_turn(loop);
    }
    nki_atomic_store(&loop->stop, 0u);
    loop->is_running = 0;
    return nki_run_result(loop, before, has_more);
}

/* Turns without waiting until the time is up. At least one callback is made if one is due, so a
 * budget of 0 still gets through everything in the end. */
static void nki_loop_poll_turns(netkit_loop *loop, uint64_t until_ns) {
    uint64_t calls = loop->calls;
    do {
        if (loop->phase == NKI_TURN_NONE) {
            nki_turn_begin(loop, 0);
        }
        while (nki_turn_step(loop)) {
            if (until_ns != NKI_NEVER && loop->calls != calls &&
                loop->driver->now(loop) >= until_ns) {
                return;
            }
        }
    } while (until_ns != NKI_NEVER && nki_wants_turn(loop) && loop->driver->now(loop) < until_ns);
}

NETKIT_API int netkit_loop_poll(netkit_loop *loop, int64_t budget_us) {
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    uint64_t until_ns = NKI_NEVER;
    if (budget_us >= 0 && budget_us < INT64_MAX / 1000) {
        until_ns = loop->driver->now(loop) + (uint64_t)budget_us * NKI_NS_PER_US;
    }
    uint32_t before = loop->wait_failures;
    int has_more;
    loop->is_running = 1;
    if (loop->desc.pull) {
        has_more = nki_loop_prepare(loop, 0, until_ns);
    } else {
        nki_loop_poll_turns(loop, until_ns);
        nki_commit(loop);
        has_more = nki_wants_turn(loop);
    }
    nki_atomic_store(&loop->stop, 0u);
    loop->is_running = 0;
    return nki_run_result(loop, before, has_more);
}

NETKIT_API int netkit_loop_next(netkit_loop *loop, netkit_event *out) {
    nki_no_answer(out, sizeof *out);
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (out == NULL || !loop->desc.pull) {
        return NETKIT_E_INVALID;
    }
    loop->is_running = 1;
    if (!loop->is_pulled_fresh) {
        bool is_new = loop->phase == NKI_TURN_NONE && loop->pulled.type == NETKIT_EVENT_NONE;
        if (is_new) {
            loop->pull_until_ns = NKI_NEVER;
            nki_turn_begin(loop, 0);
        }
        loop->is_pulled_fresh = nki_turn_pull(loop);
    }
    loop->is_running = 0;
    if (!loop->is_pulled_fresh) {
        return 0;
    }
    loop->is_pulled_fresh = 0;
    *out = loop->pulled;
    return 1;
}

NETKIT_API int netkit_loop_consume(netkit_loop *loop, size_t used) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (loop->pulled.type != NETKIT_EVENT_DATA || loop->is_pulled_fresh ||
        used > loop->pulled.len) {
        return NETKIT_E_INVALID;
    }
    loop->pulled_used = used;
    return NETKIT_OK;
}

NETKIT_API int netkit_loop_flush(netkit_loop *loop) {
    int error = nki_enter(loop);
    if (error == NETKIT_OK) {
        loop->reserved = NULL;
        nki_commit(loop); /* what is on its way comes before what is behind it */
        loop->is_flushing = 1;
        if (loop->current != NULL) {
            nki_conn_flush(loop, loop->current);
        }
        nki_flush_dirty(loop);
        loop->is_flushing = 0;
        nki_commit(loop);
    }
    return error;
}

NETKIT_API int netkit_loop_adopt(netkit_loop *loop) {
    if (loop == NULL) {
        return NETKIT_E_INVALID;
    }
    if (loop->is_running || loop->in_callback != 0) {
        return NETKIT_E_BUSY;
    }
    int error = loop->driver->rebind == NULL ? NETKIT_OK : loop->driver->rebind(loop);
    if (error == NETKIT_OK) {
        nki_atomic_store_relaxed(&loop->owner, nki_os_thread_id());
    }
    return error;
}

/* ---- from any thread ---- */

/* One wake for many: whoever finds the flag down raises it and wakes. */
static int nki_loop_wake(netkit_loop *loop) {
    if (nki_atomic_exchange(&loop->wake_pending, 1) != 0) {
        return NETKIT_OK;
    }
    int error = loop->driver->wake(loop, true);
    if (error != NETKIT_OK) {
        (void)nki_atomic_exchange(&loop->wake_pending, 0); /* the next post tries again */
    }
    return error;
}

NETKIT_API int netkit_loop_post(netkit_loop *loop, netkit_post_fn fn, void *user) {
    if (loop == NULL || fn == NULL) {
        return NETKIT_E_INVALID;
    }
    if (nki_atomic_load(&loop->is_destroying) != 0) {
        return NETKIT_E_CLOSED;
    }
    int error = nki_posts_push(&loop->posts, fn, user);
    if (error == NETKIT_OK) {
        (void)nki_loop_wake(loop); /* one that fails leaves it to the next post */
    }
    return error;
}

NETKIT_API int netkit_loop_invoke(netkit_loop *loop, netkit_post_fn fn, void *user) {
    if (loop == NULL || fn == NULL) {
        return NETKIT_E_INVALID;
    }
    if (netkit_loop_is_owner(loop)) {
        fn(loop, NETKIT_OK, user);
        return NETKIT_OK;
    }
    return netkit_loop_post(loop, fn, user);
}

NETKIT_API int netkit_loop_stop(netkit_loop *loop) {
    if (loop == NULL) {
        return NETKIT_E_INVALID;
    }
    nki_atomic_store(&loop->stop, 1u);
    /* Not through the flag of the posts: a signal may come between its raising and the wake. */
    return loop->driver->wake(loop, false);
}

NETKIT_API bool netkit_loop_is_owner(const netkit_loop *loop) {
    return loop != NULL && nki_atomic_load_relaxed(&loop->owner) == nki_os_thread_id();
}

/* ---- looking ---- */

NETKIT_API bool netkit_loop_is_running(const netkit_loop *loop) {
    return loop != NULL && loop->is_running;
}

NETKIT_API const char *netkit_loop_backend(const netkit_loop *loop, const char **why) {
    if (why != NULL) {
        *why = loop == NULL ? "" : loop->why;
    }
    return loop == NULL ? "" : loop->backend;
}

NETKIT_API void *netkit_loop_user(const netkit_loop *loop) {
    return loop == NULL ? NULL : loop->desc.user;
}

NETKIT_API void *netkit_loop_ext(netkit_loop *loop) {
    return loop == NULL ? NULL : loop->ext;
}

NETKIT_API uint64_t netkit_loop_now(netkit_loop *loop) {
    return loop == NULL ? 0 : loop->driver->now(loop);
}

NETKIT_API uint64_t netkit_loop_turn_time(const netkit_loop *loop) {
    return loop == NULL ? 0 : loop->turn_ns;
}

NETKIT_API uint64_t netkit_loop_turns(const netkit_loop *loop) {
    return loop == NULL ? 0 : loop->turns;
}

NETKIT_API uint32_t netkit_loop_objects(const netkit_loop *loop) {
    return loop == NULL ? 0 : loop->sources.count - loop->buried + loop->timer_slots.count;
}

NETKIT_API uint32_t netkit_loop_references(const netkit_loop *loop) {
    return loop == NULL ? 0 : loop->references;
}

NETKIT_API int netkit_loop_native(netkit_loop *loop, uintptr_t *native) {
    nki_no_native(native);
    int error = nki_enter(loop);
    if (error != NETKIT_OK || native == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    return loop->driver->native(loop, native);
}

NETKIT_API int netkit_loop_timeout_ms(netkit_loop *loop) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (nki_has_work(loop) || loop->is_unsubmitted) {
        return 0;
    }
    uint64_t wait = nki_timer_wait(loop);
    if (wait == NKI_NEVER) {
        return -1;
    }
    uint64_t ms = wait / NKI_NS_PER_MS + (wait % NKI_NS_PER_MS != 0);
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

/* ---- src/base/end.h ---- */
/* What must not outlive the implementation. */
#if defined(_MSC_VER)
#pragma warning(pop)
#endif
#endif /* NETKIT_IMPLEMENTATION */

/* ---- src/api/license.h ---- */
/*
This software is available under two licences: choose either.

---- ALTERNATIVE A: MIT License ----

Copyright (c) 2026 the netkit authors

Permission is hereby granted, free of charge, to any person obtaining a copy of
this software and associated documentation files (the "Software"), to deal in
the Software without restriction, including without limitation the rights to
use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
the Software, and to permit persons to whom the Software is furnished to do so,
subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

---- ALTERNATIVE B: public domain (Unlicense) ----

This is free and unencumbered software released into the public domain.

Anyone is free to copy, modify, publish, use, compile, sell, or distribute this
software, either in source code form or as a compiled binary, for any purpose,
commercial or non-commercial, and by any means.

In jurisdictions that recognize copyright laws, the author or authors of this
software dedicate any and all copyright interest in the software to the public
domain. We make this dedication for the benefit of the public at large and to
the detriment of our heirs and successors. We intend this dedication to be an
overt act of relinquishment in perpetuity of all present and future rights to
this software under copyright law.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS BE
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

For more information, please refer to <https://unlicense.org/>
*/
