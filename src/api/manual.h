/* netkit.h - v@VERSION@ - networking for C and C++ in one header
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
                        its middle; what the peer got of it ends in a reset
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
   is up to you. netkit_loop_next gives 0 at the end of the turn, or of
   netkit_loop_poll's budget, when all that was queued has been sent.
   Callbacks and events mix: what has a callback is called, from inside
   netkit_loop_next.

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
