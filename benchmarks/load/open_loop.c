/* Constant-rate load that does not wait for the server: request i is due at start + i / rate, whatever happened
 * to the ones before it. Latency is counted from the due time (by the reader of the records), so a stall of the
 * server is charged to every request that should have been sent meanwhile ("coordinated omission").
 *
 * usage: open_loop PORT RATE_PER_S CONNECTIONS REQUESTS REQUEST_FILE RECORD_FILE
 * Records: REQUESTS times three int64 (due_ns, sent_ns, done_ns) on CLOCK_MONOTONIC. Exit 3 on any answer but 2xx.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>

#include "dial.h"
#include "http_answer.h"

struct record { int64_t due_ns, sent_ns, done_ns; };

struct client {
    int fd;
    long index;              /* the request under way */
    struct answer answer;
};

static int epoll_fd, port;
static char *request;
static size_t request_len;
static struct record *records;
static struct client **idle;   /* ring of free connections: all of them stay warm */
static long idle_head, idle_tail, connections, done;

static void nothing(void *context, const char *data, size_t len) { (void)context, (void)data, (void)len; }

static void release(struct client *c) { idle[idle_tail++ % connections] = c; }

static void begin(struct client *c, long index) {
    c->index = index;
    answer_reset(&c->answer);
    records[index].sent_ns = now_ns();
    if (send(c->fd, request, request_len, MSG_NOSIGNAL) != (ssize_t)request_len)
        die("request %ld could not be sent whole: %s", index, strerror(errno));
}

static void receive(struct client *c) {
    char buffer[65536];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die("connection lost after %ld answers: %s", done, n ? strerror(errno) : "closed by the server");
    if (c->index < 0) die("bytes without a request");
    int r = answer_feed(&c->answer, buffer, n, nothing, NULL);
    if (r < 0) die("malformed answer: %.200s", c->answer.head);
    if (!r) return;
    if (c->answer.status / 100 != 2) die("status %d after %ld answers: %.300s", c->answer.status, done, buffer);
    if (c->answer.closes) die("the server closed a keep-alive connection after %ld answers", done);
    records[c->index].done_ns = now_ns();
    c->index = -1;
    done++;
    release(c);
}

int main(int argc, char **argv) {
    if (argc != 7) die("usage: open_loop PORT RATE_PER_S CONNECTIONS REQUESTS REQUEST_FILE RECORD_FILE");
    port = atoi(argv[1]);
    double rate = atof(argv[2]);
    connections = atol(argv[3]);
    long total = atol(argv[4]), next = 0;
    request = slurp(argv[5], &request_len);
    records = calloc(total, sizeof *records);
    idle = calloc(connections, sizeof *idle);
    epoll_fd = epoll_create1(0);
    sharp_timers();
    for (long i = 0; i < connections; i++) {
        struct client *c = calloc(1, sizeof *c);
        c->fd = dial(port);
        c->index = -1;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
        release(c);
    }
    int64_t start = now_ns() + 10000000;
    for (long i = 0; i < total; i++) records[i].due_ns = start + (int64_t)(i * (1e9 / rate));
    while (done < total) {
        int64_t now = now_ns();
        while (next < total && records[next].due_ns <= now && idle_head < idle_tail)
            begin(idle[idle_head++ % connections], next++);
        int64_t pause = 2000000000;
        if (next < total && idle_head < idle_tail) pause = records[next].due_ns - now_ns();
        if (pause < 0) pause = 0;
        struct timespec t = {.tv_sec = pause / 1000000000, .tv_nsec = pause % 1000000000};
        struct epoll_event events[256];
        int n = epoll_pwait2(epoll_fd, events, 256, &t, NULL);
        if (n < 0 && errno != EINTR) die("epoll: %s", strerror(errno));
        for (int i = 0; i < n; i++) receive(events[i].data.ptr);
        if (now_ns() > start + (int64_t)(total * (1e9 / rate)) + 60000000000) die("no answer for 60 s past the end; %ld done", done);
    }
    spill(argv[6], records, total * sizeof *records);
    return 0;
}
