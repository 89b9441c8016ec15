/* The limit for UDP: epoll, then receive and send back until the socket is
 * empty.
 *
 *   echo_udp
 *
 * Prints "PORT n" when it is bound.  An answer that the kernel does not take
 * is lost, as datagrams may be.
 */
#include "common.h"

#include <sys/epoll.h>

int
main(void)
{
    static char buffer[65536];
    struct sockaddr_in address = loopback(0);
    socklen_t length = sizeof(address);
    struct epoll_event event = {.events = EPOLLIN};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int poller = epoll_create1(EPOLL_CLOEXEC);

    if (fd < 0 || poller < 0
        || bind(fd, (struct sockaddr *)&address, length) < 0
        || getsockname(fd, (struct sockaddr *)&address, &length) < 0
        || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
    {
        die("UDP socket");
    }
    printf("PORT %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        if (epoll_wait(poller, &event, 1, -1) < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (;;) {
            struct sockaddr_in from;
            socklen_t from_length = sizeof(from);
            ssize_t got = recvfrom(fd, buffer, sizeof(buffer), 0,
                                   (struct sockaddr *)&from, &from_length);

            if (got < 0) {
                break;
            }
            sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&from,
                   from_length);
        }
    }
}
