// The floor of the benchmark: what the kernel alone asks for receiving bytes and writing them to a file.
//
//   floor PORT FOLDER [sync]
//
// One thread, epoll, one buffer of 512 KiB (larger writes make ext4 take page-cache folios that cost more than they
// save), files preallocated at creation. It speaks as much HTTP as the load clients need, checks nothing, and remembers
// its uploads in memory alone. "sync": fdatasync at the end of each body, before the answer.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 512 * 1024, HEAD = 2048, PATH = 4096 };

typedef struct {
    int fd, file;
    long upload;
    long left;    // of the body that comes in
    off_t place;  // where it goes, or where the download is
    long sending; // of the download
    size_t have;  // of the next request's head
    char head[HEAD];
} Connection;

typedef struct {
    long length, offset;
} Upload;

static int waiting;
static const char *folder;
static bool sync_bodies;
static Upload *uploads;
static long uploads_length, uploads_room;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int open_upload(long upload, int flags) {
    char path[PATH];
    snprintf(path, sizeof path, "%s/%ld", folder, upload);
    int file = open(path, flags | O_CLOEXEC, 0600);
    if (file < 0) die(path);
    return file;
}

__attribute__((format(printf, 2, 3))) static void answer(Connection *c, const char *format, ...) {
    char text[512];
    va_list given;
    va_start(given, format);
    int length = vsnprintf(text, sizeof text, format, given);
    va_end(given);
    if (send(c->fd, text, length, MSG_NOSIGNAL) != length) die("send");
}

static long field(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    return found ? atol(found + strlen(name)) : 0;
}

static long id_in(const char *path) {
    const char *end = path + strcspn(path, " \r");
    while (end > path && end[-1] != '/') end--;
    long upload = atol(end);
    if (upload < 0 || upload >= uploads_length) die("no such upload");
    return upload;
}

static long new_upload(long length) {
    if (uploads_length == uploads_room) {
        uploads_room = uploads_room ? 2 * uploads_room : 1024;
        uploads = realloc(uploads, uploads_room * sizeof *uploads);
        if (!uploads) die("realloc");
    }
    uploads[uploads_length] = (Upload){.length = length};
    int file = open_upload(uploads_length, O_RDWR | O_CREAT | O_EXCL);
    if (length && fallocate(file, 0, 0, length)) die("fallocate");
    close(file);
    return uploads_length++;
}

static long concatenate(const char *parts) {
    long length = 0;
    for (const char *at = parts; *at && *at != '\r'; at += strcspn(at, " \r"), at += *at == ' ')
        length += uploads[id_in(at)].length;
    long final = new_upload(length);
    int target = open_upload(final, O_WRONLY);
    for (const char *at = parts; *at && *at != '\r'; at += strcspn(at, " \r"), at += *at == ' ') {
        int part = open_upload(id_in(at), O_RDONLY);
        for (long left = uploads[id_in(at)].length; left;) {
            ssize_t n = copy_file_range(part, NULL, target, NULL, left, 0);
            if (n <= 0) die("copy_file_range");
            left -= n;
        }
        close(part);
    }
    close(target);
    uploads[final].offset = length;
    return final;
}

static void take(Connection *c, const char *data, size_t length) {
    if (pwrite(c->file, data, length, c->place) != (ssize_t)length) die("pwrite");
    c->place += length, c->left -= length;
}

static void end_body(Connection *c) {
    if (sync_bodies && fdatasync(c->file)) die("fdatasync");
    close(c->file);
    c->file = -1;
    uploads[c->upload].offset = c->place;
    answer(c, "HTTP/1.1 204 No Content\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: %ld\r\n\r\n", (long)c->place);
}

static void watch(Connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(waiting, EPOLL_CTL_MOD, c->fd, &event)) die("epoll_ctl");
}

// Send what can be sent of a download; the rest waits for room.
static void send_file(Connection *c) {
    while (c->sending) {
        ssize_t n = sendfile(c->fd, c->file, &c->place, c->sending);
        if (n < 0 && errno == EAGAIN) return watch(c, EPOLLOUT);
        if (n <= 0) break;  // the client is gone; its connection tells
        c->sending -= n;
    }
    c->sending = 0;
    close(c->file);
    c->file = -1;
    watch(c, EPOLLIN);
}

static void handle(Connection *c, char *body) {
    const char *path = strchr(c->head, ' ') + 1;
    switch (c->head[0] == 'P' ? c->head[1] : c->head[0]) {
    case 'O': {  // POST
        const char *final = strcasestr(c->head, "\r\nUpload-Concat: final;");
        long upload = final ? concatenate(final + 23) : new_upload(field(c->head, "\r\nUpload-Length:"));
        answer(
            c, "HTTP/1.1 201 Created\r\nTus-Resumable: 1.0.0\r\nLocation: /files/%ld\r\nContent-Length: 0\r\n\r\n", upload);
        break;
    }
    case 'A': {  // PATCH
        c->upload = id_in(path);
        c->file = open_upload(c->upload, O_WRONLY);
        c->place = field(c->head, "\r\nUpload-Offset:");
        c->left = field(c->head, "\r\nContent-Length:");
        size_t more = c->head + c->have - body;
        if (more) take(c, body, more);
        if (!c->left) end_body(c);
        break;
    }
    case 'H':  // HEAD
        answer(
            c,
            "HTTP/1.1 200 OK\r\nTus-Resumable: 1.0.0\r\nUpload-Length: %ld\r\nUpload-Offset: %ld\r\n"
            "Cache-Control: no-store\r\nContent-Length: 0\r\n\r\n",
            uploads[id_in(path)].length, uploads[id_in(path)].offset);
        break;
    case 'G':  // GET
        c->upload = id_in(path);
        c->file = open_upload(c->upload, O_RDONLY);
        c->place = 0, c->sending = uploads[c->upload].length;
        answer(c, "HTTP/1.1 200 OK\r\nContent-Length: %ld\r\n\r\n", c->sending);
        send_file(c);
        break;
    }
    c->have = 0;
}

// Receive once, so that a fast connection does not keep the others waiting. Returns false at the end of the connection.
static bool receive(Connection *c, char *buffer) {
    if (c->left) {
        ssize_t n = recv(c->fd, buffer, c->left < BUFFER ? c->left : BUFFER, 0);
        if (n <= 0) return false;
        take(c, buffer, n);
        if (!c->left) end_body(c);
        return true;
    }
    ssize_t n = recv(c->fd, c->head + c->have, HEAD - 1 - c->have, 0);
    if (n <= 0) return false;
    c->have += n;
    c->head[c->have] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (end) handle(c, end + 4);
    return c->have < HEAD - 1;
}

int main(int count, char **given) {
    if (count < 3) return fprintf(stderr, "floor PORT FOLDER [sync]\n"), 2;
    folder = given[2], sync_bodies = count > 3 && !strcmp(given[3], "sync");
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(given[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    char *buffer = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    waiting = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    if (buffer == MAP_FAILED || waiting < 0 || epoll_ctl(waiting, EPOLL_CTL_ADD, listener, &event)) die("epoll");
    for (;;) {
        int ready = epoll_wait(waiting, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (c) {
                if (c->sending) {
                    send_file(c);
                    continue;
                }
                if (receive(c, buffer)) continue;
                if (c->file >= 0) close(c->file);
                close(c->fd);
                free(c);
                continue;
            }
            for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                c = calloc(1, sizeof *c);
                if (!c) die("calloc");
                c->fd = fd, c->file = -1;
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
                if (epoll_ctl(waiting, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
            }
        }
    }
}
