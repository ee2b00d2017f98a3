/* The least that any server of events must do: one non-blocking send for each delivery.
 *
 *   floor PORT
 *
 * A client that sends GET gets a head and stays. POST /publish?n=N sends its body, which is a whole
 * frame, N times to each of them: no history, no ids, no buffers, nothing joined.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
static const char done[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
static int clients[65536], count;
static char data[65536 + 1];

static void drop(int descriptor) {
    for (int i = 0; i < count; i++)
        if (clients[i] == descriptor) {
            clients[i] = clients[--count];
            break;
        }
    close(descriptor);
}

static void serve(int descriptor) {
    ssize_t size = recv(descriptor, data, sizeof data - 1, MSG_DONTWAIT);
    if (size <= 0) {
        drop(descriptor);
        return;
    }
    data[size] = 0;
    if (data[0] == 'G') {
        send(descriptor, head, sizeof head - 1, MSG_NOSIGNAL);
        clients[count++] = descriptor;
        return;
    }
    const char *times = strstr(data, "?n="), *frame = strstr(data, "\r\n\r\n");
    if (times && frame) {
        size_t length = data + size - (frame += 4);
        for (int n = atoi(times + 3); n > 0; n--)
            for (int i = 0; i < count; i++)
                send(clients[i], frame, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        send(descriptor, done, sizeof done - 1, MSG_NOSIGNAL);
    }
    close(descriptor);
}

int main(int argc, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 2048) < 0)
        return 1;
    int poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, found[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, found, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (found[i].data.fd != listener) {
                serve(found[i].data.fd);
                continue;
            }
            event.data.fd = accept(listener, NULL, NULL);
            if (event.data.fd < 0)
                continue;
            setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd, &event);
        }
    }
}
