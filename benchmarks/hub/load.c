/* Many clients of one server, in one process: connects them, counts what they are sent, and takes
 * the time of each delivery.
 *
 *   load PORT COUNT IN_FLIGHT AGAIN REQUEST READY [REPLY READY]
 *
 * Each client sends REQUEST and is ready when READY has come; with REPLY it sends that then, and is
 * ready at the second READY. Event data holds "#!" and twenty digits: when it was published, in
 * nanoseconds of CLOCK_MONOTONIC. At most IN_FLIGHT clients connect at a time. With AGAIN (1) a
 * client whose connection ends comes back like an EventSource: after the time that "retry:" said,
 * with the last "id:". Commands, one a line, on the standard input; each is answered by one line:
 *
 *   ready N MS    wait until N clients are ready             -> ready ended opened
 *   begin         forget all deliveries                      -> ok
 *   wait N MS     wait until N deliveries have come          -> count first last p50 p99 max cpu
 *
 * Times in nanoseconds, cpu (of this process, since "begin") too. What is not there after MS
 * milliseconds is not waited for.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 262144
#define HEAD 4096
#define DIGITS 20
#define UNIT 100 /* nanoseconds in which latencies are kept, 32 bits each */

enum state { CLOSED, CONNECTING, WAITING, REPLIED, READY };

struct client {
    int fd;
    enum state state;
    int matched;     /* of "#!" and the digits */
    uint64_t stamp;
    char *head;      /* what came before it was ready */
    int head_size;
    int64_t due;     /* when it comes back; 0: it does not */
    int64_t retry;   /* nanoseconds */
    char id[64];
};

static struct client *clients;
static int count, in_flight, again, port;
static const char *request, *ready_text[2], *reply;
static int poller, started, connecting, ready, ended, opened;

static uint32_t *latencies;
static size_t deliveries, capacity;
static int64_t first_at, last_at, cpu_before;
static char buffer[BUFFER + 1];

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void start(struct client *client) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct linger linger = {.l_onoff = 1, .l_linger = 0}; /* no TIME_WAIT: ports are few */
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        fail("socket");
    setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    client->state = CONNECTING;
    client->matched = client->head_size = 0;
    client->due = 0;
    client->head = malloc(HEAD + 1);
    connecting++;
    opened++;
    if (connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0 &&
        errno != EINPROGRESS)
        fail("connect");
    event.data.ptr = client;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event) < 0)
        fail("epoll_ctl");
}

static void finish(struct client *client) {
    if (client->state == READY)
        ready--;
    else
        connecting--;
    ended++;
    close(client->fd);
    free(client->head);
    client->head = NULL;
    client->state = CLOSED;
    if (again)
        client->due = now(CLOCK_MONOTONIC) + client->retry;
}

static void send_all(struct client *client, const char *text) {
    size_t size = strlen(text);
    if (send(client->fd, text, size, MSG_NOSIGNAL) != (ssize_t)size)
        shutdown(client->fd, SHUT_RDWR);
}

static void send_request(struct client *client) {
    if (*client->id) {
        char whole[HEAD];
        size_t size = strlen(request) - 2; /* before the empty line */
        snprintf(whole, sizeof whole, "%.*sLast-Event-ID: %s\r\n\r\n", (int)size, request,
                 client->id);
        send_all(client, whole);
    } else {
        send_all(client, request);
    }
    client->state = WAITING;
}

/* The value of a line's field; a chunk begins with a line, for the server sends whole frames. */
static char *find_field(char *data, const char *field) {
    size_t size = strlen(field);
    char *found = data;
    while ((found = strstr(found, field))) {
        if (found == data || found[-1] == '\n')
            return found + size;
        found += size;
    }
    return NULL;
}

static void remember(struct client *client, char *data) {
    char *found = data, *last = NULL;
    while ((found = find_field(found, "retry: ")))
        client->retry = atoll(found) * 1000000LL;
    for (found = data; (found = find_field(found, "id: "));)
        last = found;
    if (last) {
        size_t size = strcspn(last, "\r\n");
        if (size < sizeof client->id) {
            memcpy(client->id, last, size);
            client->id[size] = 0;
        }
    }
}

static void take_head(struct client *client, ssize_t size) {
    if (client->head_size + size > HEAD)
        size = HEAD - client->head_size;
    memcpy(client->head + client->head_size, buffer, size);
    client->head_size += size;
    client->head[client->head_size] = 0;
    if (client->state == WAITING && memmem(client->head, client->head_size, ready_text[0],
                                           strlen(ready_text[0]))) {
        if (reply) {
            send_all(client, reply);
            client->state = REPLIED;
        } else {
            client->state = READY;
        }
    }
    if (client->state == REPLIED && memmem(client->head, client->head_size, ready_text[1],
                                           strlen(ready_text[1])))
        client->state = READY;
    if (again)
        remember(client, client->head);
    if (client->state == READY) {
        connecting--;
        ready++;
        free(client->head);
        client->head = NULL;
    }
}

static void deliver(uint64_t stamp, int64_t at) {
    int64_t latency = (at - (int64_t)stamp) / UNIT;
    if (deliveries == capacity) {
        capacity = capacity ? 2 * capacity : 1 << 20;
        latencies = realloc(latencies, capacity * sizeof *latencies);
        if (!latencies)
            fail("realloc");
    }
    latencies[deliveries++] = latency < 0 ? 0 : latency > UINT32_MAX ? UINT32_MAX : latency;
    if (!first_at)
        first_at = at;
    last_at = at;
}

static void scan(struct client *client, const char *data, ssize_t size, int64_t at) {
    const char *end = data + size;
    while (data < end) {
        if (client->matched == 0) {
            data = memchr(data, '#', end - data);
            if (!data)
                return;
            data++;
            client->matched = 1;
        } else if (client->matched == 1) {
            client->matched = *data == '!' ? 2 : 0;
            client->stamp = 0;
            data += client->matched != 0;
        } else {
            client->stamp = client->stamp * 10 + (*data++ - '0');
            if (++client->matched == 2 + DIGITS) {
                deliver(client->stamp, at);
                client->matched = 0;
            }
        }
    }
}

static void receive(struct client *client) {
    for (;;) {
        ssize_t size = recv(client->fd, buffer, BUFFER, 0);
        if (size <= 0) {
            if (size < 0 && errno == EAGAIN)
                return;
            finish(client);
            return;
        }
        if (client->state == READY) {
            scan(client, buffer, size, now(CLOCK_MONOTONIC));
            if (again) {
                buffer[size] = 0;
                remember(client, buffer);
            }
        } else {
            take_head(client, size);
        }
        /* A client of ours is asked again only if there may be more: the end comes as an event. */
        if (size < BUFFER)
            return;
    }
}

/* Serve the clients for a while; whether there is a command to read. */
static int serve(int milliseconds) {
    int command = 0;
    struct epoll_event events[1024];
    int found = epoll_wait(poller, events, 1024, milliseconds);
    for (int i = 0; i < found; i++) {
        struct client *client = events[i].data.ptr;
        if (!client)
            command = 1;
        if (!client || client->state == CLOSED)
            continue;
        if (events[i].events & (EPOLLERR | EPOLLHUP) && client->state == CONNECTING) {
            finish(client);
            continue;
        }
        if (client->state == CONNECTING && events[i].events & EPOLLOUT)
            send_request(client);
        if (events[i].events & EPOLLIN)
            receive(client);
        if (client->state > CONNECTING && events[i].events & (EPOLLRDHUP | EPOLLHUP)) {
            while (client->state > CONNECTING) /* what came before the end */
                receive(client);
        }
    }
    while (started < count && connecting < in_flight)
        start(&clients[started++]);
    if (again) {
        int64_t moment = now(CLOCK_MONOTONIC);
        for (int i = 0; i < started; i++)
            if (clients[i].due && clients[i].due <= moment)
                start(&clients[i]);
    }
    return command;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int64_t quantile(double part) {
    if (!deliveries)
        return 0;
    size_t place = part * deliveries;
    return (int64_t)latencies[place < deliveries ? place : deliveries - 1] * UNIT;
}

static void report(void) {
    int64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu_before;
    qsort(latencies, deliveries, sizeof *latencies, ascending);
    printf("%zu %lld %lld %lld %lld %lld %lld\n", deliveries, (long long)first_at,
           (long long)last_at, (long long)quantile(0.5), (long long)quantile(0.99),
           (long long)quantile(1), (long long)cpu);
    fflush(stdout);
}

int main(int argc, char **argv) {
    char line[256];
    if (argc != 7 && argc != 9)
        return 2;
    port = atoi(argv[1]);
    count = atoi(argv[2]);
    in_flight = atoi(argv[3]);
    again = atoi(argv[4]);
    request = argv[5];
    ready_text[0] = argv[6];
    if (argc == 9) {
        reply = argv[7];
        ready_text[1] = argv[8];
    }
    clients = calloc(count, sizeof *clients);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event input = {.events = EPOLLIN};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &input) < 0)
        fail("epoll_ctl");
    fcntl(0, F_SETFL, O_NONBLOCK);

    enum { NOTHING, FOR_READY, FOR_DELIVERIES } waiting = NOTHING;
    size_t wanted = 0;
    int64_t until = 0;
    for (;;) {
        int command = serve(again || waiting ? 10 : 100);
        int64_t moment = now(CLOCK_MONOTONIC);
        if (waiting == FOR_READY && (ready >= (int)wanted || moment > until)) {
            printf("%d %d %d\n", ready, ended, opened);
            fflush(stdout);
            waiting = NOTHING;
        }
        if (waiting == FOR_DELIVERIES && (deliveries >= wanted || moment > until)) {
            report();
            waiting = NOTHING;
        }
        if (!command)
            continue;
        ssize_t size = read(0, line, sizeof line - 1);
        if (size == 0)
            return 0;
        if (size < 0)
            continue;
        line[size] = 0;
        long milliseconds = 0;
        if (sscanf(line, "ready %zu %ld", &wanted, &milliseconds) == 2)
            waiting = FOR_READY;
        else if (sscanf(line, "wait %zu %ld", &wanted, &milliseconds) == 2)
            waiting = FOR_DELIVERIES;
        else {
            deliveries = 0;
            first_at = last_at = 0;
            cpu_before = now(CLOCK_PROCESS_CPUTIME_ID);
            printf("ok\n");
            fflush(stdout);
        }
        until = now(CLOCK_MONOTONIC) + milliseconds * 1000000LL;
    }
}
