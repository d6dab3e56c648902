// Echo on Asio: a session with its own 64 KiB buffer, async_read_some, async_write.
#include "server.h"

#include <asio.hpp>

#include <memory>
#include <utility>

using asio::ip::tcp;

class session : public std::enable_shared_from_this<session> {
  public:
    explicit session(tcp::socket socket) : socket_(std::move(socket)) {}

    void read() {
        auto self = shared_from_this();
        socket_.async_read_some(asio::buffer(data_, sizeof data_),
                                [self](const asio::error_code &error, std::size_t len) {
                                    if (error) {
                                        return;
                                    }
                                    if (server_opt.sink) {
                                        self->read();
                                    } else {
                                        self->write(len);
                                    }
                                });
    }

  private:
    void write(std::size_t len) {
        auto self = shared_from_this();
        asio::async_write(socket_, asio::buffer(data_, len),
                          [self](const asio::error_code &error, std::size_t) {
                              if (!error) {
                                  self->read();
                              }
                          });
    }

    tcp::socket socket_;
    char data_[SERVER_READ_MAX];
};

static void accept_next(tcp::acceptor &acceptor) {
    acceptor.async_accept([&acceptor](const asio::error_code &error, tcp::socket socket) {
        if (!error) {
            std::make_shared<session>(std::move(socket))->read();
        }
        if (acceptor.is_open()) {
            accept_next(acceptor);
        }
    });
}

int main(int argc, char **argv) {
    server_parse(argc, argv, "");
    asio::io_context context(1);
    asio::signal_set signals(context, SIGTERM);
    int fd = server_socket();
    tcp::acceptor acceptor(context, tcp::v4(), fd);
    signals.async_wait([&context](const asio::error_code &, int) { context.stop(); });
    accept_next(acceptor);
    server_announce(fd);
    context.run();
    return 0;
}
