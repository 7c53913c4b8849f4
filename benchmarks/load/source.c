/* The static upstream for streams: an OpenAI-style endpoint that sends one stamped chunk per stream and period,
 * from ONE timer wheel. A stream lives in the wheel's slot of the millisecond in which it asked; every tick serves
 * one slot. No timer per stream, no allocation per chunk.
 *
 * usage: source PORT PERIOD_MS DEFAULT_TOKENS
 * POST with "stream":true: role-less content chunks "t<CLOCK_MONOTONIC ns>", then finish_reason, the usage chunk
 * when "include_usage":true was asked, [DONE]. "max_tokens":N sets the count. Other POST: one whole answer.
 * GET /stats: {"chunks","blocked","late_max_us","late_ticks","ticks","streams"} since the last GET /stats.
 * A chunk that finds the socket full waits in the stream's buffer ("blocked"); the stamp keeps its first time.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>

#include "dial.h"
#include "http_answer.h"

#define SLOTS_LIMIT 1000
#define PENDING_LIMIT (1 << 20)
#define LATE_TICK_NS 5000000

struct conn {
    int fd, used, tokens, left, include_usage, streaming, closed;
    size_t pending_len, pending_sent;
    char *pending;
    struct conn *next, *prev;    /* in the wheel's slot */
    struct conn *next_doomed;
    int slot;
    char request[16384];
};

static int epoll_fd, period_ms, default_tokens;
static struct conn *slots[SLOTS_LIMIT];
static struct conn *doomed;      /* closed in this turn of the loop, freed at its end */
static int64_t tick_due_ns;
static int current;
static long chunks, blocked, late_max_ns, late_ticks, ticks, streams;

static void leave_slot(struct conn *c) {
    if (!c->streaming) return;
    if (c->prev) c->prev->next = c->next;
    else slots[c->slot] = c->next;
    if (c->next) c->next->prev = c->prev;
    c->next = c->prev = NULL;
    c->streaming = 0;
    streams--;
}

static void enter_slot(struct conn *c) {
    c->slot = current;
    c->prev = NULL;
    c->next = slots[current];
    if (c->next) c->next->prev = c;
    slots[current] = c;
    c->streaming = 1;
    streams++;
}

static void drop(struct conn *c) {
    if (c->closed) return;
    leave_slot(c);
    close(c->fd);
    c->closed = 1;
    c->next_doomed = doomed;
    doomed = c;
}

static void flush_pending(struct conn *c) {
    while (c->pending_sent < c->pending_len) {
        ssize_t n = send(c->fd, c->pending + c->pending_sent, c->pending_len - c->pending_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) return drop(c);
        c->pending_sent += n;
    }
    c->pending_len = c->pending_sent = 0;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void emit(struct conn *c, const char *data, size_t len) {
    ssize_t n = 0;
    if (c->closed) return;
    if (!c->pending_len) {
        n = send(c->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return drop(c);
        if (n == (ssize_t)len) return;
        if (n < 0) n = 0;
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    }
    blocked++;
    if (!c->pending) c->pending = malloc(PENDING_LIMIT);
    if (c->pending_len + len - n > PENDING_LIMIT) return drop(c);
    memcpy(c->pending + c->pending_len, data + n, len - n);
    c->pending_len += len - n;
}

static int frame(char *to, const char *event) {
    return sprintf(to, "%zx\r\n%s\r\n", strlen(event), event);
}

#define CHUNK_HEAD "data: {\"id\":\"chatcmpl-5f0c2b7e9d1a4c63\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"deepseek-chat\",\"system_fingerprint\":\"fp_bench\",\"choices\":["

static void next_chunk(struct conn *c) {
    char out[4096], event[1024];
    int len = 0;
    if (c->left == c->tokens)
        len = sprintf(out, "HTTP/1.1 200 OK\r\nserver: source\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                           "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n");
    if (c->left > 0) {
        sprintf(event, CHUNK_HEAD "{\"index\":0,\"delta\":{%s\"content\":\"t%lld\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
                c->left == c->tokens ? "\"role\":\"assistant\"," : "", (long long)now_ns());
        len += frame(out + len, event);
        emit(c, out, len);
        c->left--;
        chunks++;
        return;
    }
    len += frame(out + len, CHUNK_HEAD "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n");
    if (c->include_usage) {
        sprintf(event, "data: {\"id\":\"chatcmpl-5f0c2b7e9d1a4c63\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"deepseek-chat\",\"system_fingerprint\":\"fp_bench\",\"choices\":[],\"usage\":{\"prompt_tokens\":150,\"completion_tokens\":%d,\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":0},\"prompt_cache_hit_tokens\":0,\"prompt_cache_miss_tokens\":150}}\n\n", c->tokens, c->tokens + 150);
        len += frame(out + len, event);
    }
    len += frame(out + len, "data: [DONE]\n\n");
    len += sprintf(out + len, "0\r\n\r\n");
    leave_slot(c);
    emit(c, out, len);
}

static void whole(struct conn *c, const char *body) {
    char out[4096];
    int len = sprintf(out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", strlen(body), body);
    emit(c, out, len);
}

static void stats(struct conn *c) {
    char body[512];
    sprintf(body, "{\"chunks\":%ld,\"blocked\":%ld,\"late_max_us\":%ld,\"late_ticks\":%ld,\"ticks\":%ld,\"streams\":%ld}",
            chunks, blocked, late_max_ns / 1000, late_ticks, ticks, streams);
    chunks = blocked = late_max_ns = late_ticks = ticks = 0;
    whole(c, body);
}

static int says(const char *body, const char *name) {
    const char *p = strstr(body, name);
    if (!p) return 0;
    p += strlen(name);
    while (*p == ' ' || *p == ':') p++;
    return !strncmp(p, "true", 4);
}

static void serve(struct conn *c, const char *body) {
    if (!strncmp(c->request, "GET /stats", 10)) return stats(c);
    if (!strncmp(c->request, "GET /v1/models", 14))
        return whole(c, "{\"object\":\"list\",\"data\":[{\"id\":\"deepseek-chat\",\"object\":\"model\",\"created\":1,\"owned_by\":\"bench\"}]}");
    if (strncmp(c->request, "POST", 4)) return whole(c, "{\"status\":\"ok\",\"model_path\":\"deepseek-chat\"}");
    if (!says(body, "\"stream\""))
        return whole(c, "{\"id\":\"chatcmpl-5f0c2b7e9d1a4c63\",\"object\":\"chat.completion\",\"created\":1790000000,\"model\":\"deepseek-chat\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"ok\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":150,\"completion_tokens\":1,\"total_tokens\":151}}");
    const char *limit = strstr(body, "\"max_tokens\"");
    c->tokens = default_tokens;
    if (limit) {
        limit += 12;
        while (*limit == ' ' || *limit == ':') limit++;
        if (atoi(limit) > 0) c->tokens = atoi(limit);
    }
    c->left = c->tokens;
    c->include_usage = says(body, "\"include_usage\"");
    enter_slot(c);
    next_chunk(c);
}

static void take_request(struct conn *c) {
    c->request[c->used] = 0;
    if (!strncmp(c->request, "PRI * HTTP/2", 12)) return drop(c);   /* SGLang's gateway tries gRPC first */
    char *end = strstr(c->request, "\r\n\r\n");
    if (!end) return;
    long length = 0;
    for (char *p = strstr(c->request, "\r\n"); p < end; p = strstr(p + 2, "\r\n"))
        if (!strncasecmp(p + 2, "content-length:", 15)) length = atol(p + 17);
    int total = (int)(end + 4 - c->request) + (int)length;
    if (c->used < total) return;
    if (c->used > total) die("source: %d surplus bytes from the server under test", c->used - total);
    serve(c, end + 4);
    c->used = 0;
}

static void receive(struct conn *c) {
    ssize_t n = recv(c->fd, c->request + c->used, sizeof c->request - 1 - c->used, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return drop(c);
    c->used += n;
    if (c->used >= (int)sizeof c->request - 1) die("source: request over 16 KiB");
    take_request(c);
}

static void turn_wheel(int64_t now) {
    while (tick_due_ns <= now) {
        int64_t late = now - tick_due_ns;
        if (late > late_max_ns) late_max_ns = late;
        if (late > LATE_TICK_NS) late_ticks++;
        ticks++;
        current = (current + 1) % period_ms;
        struct conn *c = slots[current], *next;
        for (; c; c = next) {
            next = c->next;
            next_chunk(c);
        }
        tick_due_ns += 1000000;
        now = now_ns();
    }
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) die("usage: source PORT PERIOD_MS DEFAULT_TOKENS");
    period_ms = atoi(argv[2]);
    default_tokens = atoi(argv[3]);
    if (period_ms < 1 || period_ms > SLOTS_LIMIT) die("PERIOD_MS must be between 1 and %d", SLOTS_LIMIT);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) die("source: bind: %s", strerror(errno));
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    sharp_timers();
    tick_due_ns = now_ns() + 1000000;
    for (;;) {
        int64_t now = now_ns(), pause = tick_due_ns - now;
        if (!streams) tick_due_ns = now + 1000000, pause = 100000000;   /* nothing to pace: sleep */
        if (pause < 0) pause = 0;
        struct timespec t = {.tv_sec = 0, .tv_nsec = pause};
        struct epoll_event ready[256];
        int n = epoll_pwait2(epoll_fd, ready, 256, &t, NULL);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (!c) accept_all(listener);
            else {
                if (!c->closed && ready[i].events & EPOLLOUT) flush_pending(c);
                if (!c->closed && ready[i].events & ~EPOLLOUT) receive(c);
            }
        }
        if (streams) turn_wheel(now_ns());
        while (doomed) {
            struct conn *c = doomed;
            doomed = c->next_doomed;
            free(c->pending);
            free(c);
        }
    }
}
