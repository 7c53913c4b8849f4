/* An incremental reader of HTTP/1.1 answers, shared by the two load generators.
 *
 * It accepts what the measured servers send (content-length, chunked, no body) and nothing looser: a surplus
 * byte, a bad chunk size or an answer cut short is an error, so a server cannot look fast by answering badly.
 */
#ifndef HTTP_ANSWER_H
#define HTTP_ANSWER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define HEAD_LIMIT 8192

enum phase { HEAD, LENGTH, SIZE, EXTENSION, DATA, DATA_END, TRAILER };

struct answer {
    enum phase phase;
    int status;
    int chunked;
    int closes;              /* the server said `connection: close` */
    int64_t remaining;       /* bytes left of the body or of the chunk */
    int head_len;
    int line_len;            /* length of the trailer line so far */
    int digits;              /* hex digits of the chunk size so far */
    char head[HEAD_LIMIT];
};

typedef void (*body_fn)(void *context, const char *data, size_t len);

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void answer_reset(struct answer *a) {
    a->phase = HEAD;
    a->status = 0;
    a->chunked = 0;
    a->closes = 0;
    a->remaining = -1;
    a->head_len = 0;
    a->line_len = 0;
    a->digits = 0;
}

static inline int answer_parse_head(struct answer *a) {
    a->head[a->head_len] = 0;
    if (sscanf(a->head, "HTTP/1.%*d %d", &a->status) != 1) return -1;
    char *line = strstr(a->head, "\r\n");
    while (line && line[2] != '\r') {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15)) a->remaining = atoll(line + 15);
        else if (!strncasecmp(line, "transfer-encoding:", 18)) {
            char *end = strstr(line, "\r\n");
            for (char *p = line + 18; p + 7 <= end; p++)
                if (!strncasecmp(p, "chunked", 7)) a->chunked = 1;
        } else if (!strncasecmp(line, "connection:", 11)) {
            char *p = line + 11;
            while (*p == ' ') p++;
            a->closes = !strncasecmp(p, "close", 5);
        }
        line = strstr(line, "\r\n");
    }
    if (a->chunked) a->phase = SIZE, a->remaining = 0;
    else if (a->remaining >= 0) a->phase = LENGTH;
    else return -1;
    return 0;
}

/* One byte of chunk framing. Returns 1 at the end of the answer, -1 on an error, else 0. */
static inline int answer_frame(struct answer *a, char c) {
    switch (a->phase) {
    case SIZE: {
        int v = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (v >= 0) {
            if (++a->digits > 8) return -1;
            a->remaining = a->remaining * 16 + v;
            return 0;
        }
        if (!a->digits) return -1;
        a->phase = EXTENSION;
        if (c != '\n') return 0;
    } /* fall through */
    case EXTENSION:
        if (c != '\n') return 0;
        a->digits = 0;
        a->line_len = 0;
        a->phase = a->remaining ? DATA : TRAILER;
        return 0;
    case DATA_END:
        if (c == '\n') a->phase = SIZE, a->remaining = 0;
        else if (c != '\r') return -1;
        return 0;
    case TRAILER:
        if (c == '\n') {
            if (!a->line_len) return 1;
            a->line_len = 0;
        } else if (c != '\r') a->line_len++;
        return 0;
    default:
        return -1;
    }
}

/* Feeds bytes as they came off the wire. Returns 1 when the answer is complete (and no byte is left over), 0 when
 * more is needed, -1 when the answer is malformed or has surplus bytes. */
static inline int answer_feed(struct answer *a, const char *data, size_t len, body_fn body, void *context) {
    size_t i = 0;
    while (i < len) {
        if (a->phase == HEAD) {
            if (a->head_len >= HEAD_LIMIT - 1) return -1;
            a->head[a->head_len++] = data[i++];
            if (a->head_len >= 4 && !memcmp(a->head + a->head_len - 4, "\r\n\r\n", 4)) {
                if (answer_parse_head(a)) return -1;
                if (a->phase == LENGTH && a->remaining == 0) return i == len ? 1 : -1;
            }
        } else if (a->phase == LENGTH || a->phase == DATA) {
            size_t n = len - i < (size_t)a->remaining ? len - i : (size_t)a->remaining;
            body(context, data + i, n);
            i += n;
            a->remaining -= n;
            if (!a->remaining) {
                if (a->phase == LENGTH) return i == len ? 1 : -1;
                a->phase = DATA_END;
            }
        } else {
            int r = answer_frame(a, data[i++]);
            if (r < 0) return -1;
            if (r > 0) return i == len ? 1 : -1;
        }
    }
    return 0;
}

#endif
