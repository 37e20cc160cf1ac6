// The load clients of the benchmark: one program, one thread, epoll. In C, so that they are never what is measured.
//
//   client patch  … uploads=N bodies=B size=S [checksum="sha1 …"]   N uploads at once, each of B PATCHes of S bytes
//   client small  … uploads=N connections=C size=S                  POST, PATCH and HEAD of N small uploads
//   client head   … connections=C rate=R                            HEAD of one upload, R times a second, until told
//   client slow   … uploads=N seconds=T                             N connections that send 1 KiB a second each
//   client concat … parts=N size=S                                  one final upload of N parts
//   client get    … size=S                                          one download
//   client verify source=FILE                                       compare files, named on standard input
//
// "…" is port=N base=/files/ source=FILE [ids=FILE]. What is sent is the source, over and over: upload i begins at page
// i * STRIDE of it, so that bytes in the wrong file or at the wrong place are found. The URLs of the uploads go to `ids`.
//
// The harness drives it over standard input and output, so that it can look at the server's counters in between: the
// client says "ready" once all is prepared (uploads created, connections open), waits for a line, does the work, and
// says "result {…}". `slow` says "open" and "window" too, each followed by a wait. What goes wrong is told on standard
// error, with exit code 1: an answer of another status than expected ends the run.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    STRIDE = 37,
    WATCHDOG = 600,  // seconds after which a hanging run is given up
};

typedef struct {
    char url[256];     // as the server named it
    const char *path;  // its part from the first / on
    long start;        // where its bytes begin in the source
} Upload;

typedef struct {
    int fd;
    Upload *upload;
    int step;  // what a mode is at
    bool busy;
    char out[4096];  // a request's head, and its body if that is tiny
    size_t out_length, out_sent;
    long body_at, body_left;  // what follows it from the source
    int expected;             // status
    bool no_body;             // the answer has none, whatever it says
    char in[8192];
    size_t in_length;
    double began;
} Connection;

static int port, source, waiting;
static const char *base, *checksum;
static const char *mapped;  // the source
static long period;         // its length

// ── Small things ───────────────────────────────────────────────────────────────────────────────────────────────────

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) die("out of memory");
    return memory;
}

static int arguments_count;
static char **arguments;

static const char *text(const char *name, const char *otherwise) {
    size_t length = strlen(name);
    for (int i = 2; i < arguments_count; i++)
        if (!strncmp(arguments[i], name, length) && arguments[i][length] == '=') return arguments[i] + length + 1;
    if (!otherwise) die("%s= is missing", name);
    return otherwise;
}

static long number(const char *name) { return atol(text(name, NULL)); }

static void say(const char *word) {
    puts(word);
    fflush(stdout);
}

static void wait_for_line(void) {
    char line[64];
    if (!fgets(line, sizeof line, stdin)) exit(1);  // the harness is gone
}

static void be_ready(void) {
    say("ready");
    wait_for_line();
}

static long start_of(long index) { return index * STRIDE * PAGE % period; }

static bool matches(const char *data, size_t length, long at) {
    while (length) {
        long from = at % period;
        size_t part = length < (size_t)(period - from) ? length : (size_t)(period - from);
        if (memcmp(data, mapped + from, part)) return false;
        data += part, length -= part, at += part;
    }
    return true;
}

// ── What is found out ──────────────────────────────────────────────────────────────────────────────────────────────

static double *latencies;
static size_t latencies_length, latencies_room;

static void note(double seconds) {
    if (latencies_length == latencies_room) {
        latencies_room = latencies_room ? 2 * latencies_room : 4096;
        latencies = realloc(latencies, latencies_room * sizeof *latencies);
        if (!latencies) die("out of memory");
    }
    latencies[latencies_length++] = seconds;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double q) {
    return latencies_length ? latencies[(size_t)(q * (latencies_length - 1) + 0.5)] : 0;
}

static void result(double seconds, long bytes) {
    if (latencies_length) qsort(latencies, latencies_length, sizeof *latencies, ascending);
    printf(
        "result {\"seconds\": %.6f, \"bytes\": %ld, \"requests\": %zu, \"p50\": %.6f, \"p99\": %.6f, \"max\": %.6f}\n",
        seconds, bytes, latencies_length, quantile(0.5), quantile(0.99), quantile(1));
    fflush(stdout);
}

static void write_ids(Upload *uploads, long count) {
    const char *path = text("ids", "");
    if (!*path) return;
    FILE *file = fopen(path, "w");
    if (!file) die("%s: %s", path, strerror(errno));
    for (long i = 0; i < count; i++) fprintf(file, "%s\t%ld\n", uploads[i].path, uploads[i].start);
    if (fclose(file)) die("%s: %s", path, strerror(errno));
}

// ── Connections ────────────────────────────────────────────────────────────────────────────────────────────────────

static void open_connection(Connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    // Edge-triggered and never changed: whatever comes, both directions are tried.
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(waiting, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void close_connection(Connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

// Send what can be sent. Returns whether that was all.
static bool flush(Connection *c) {
    while (c->out_sent < c->out_length) {
        int more = c->body_left ? MSG_MORE : 0;
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_length - c->out_sent, MSG_NOSIGNAL | more);
        if (n < 0 && errno == EAGAIN) return false;
        if (n < 0) die("send %.40s: %s", c->out, strerror(errno));
        c->out_sent += n;
    }
    while (c->body_left) {
        off_t from = c->body_at % period;
        long part = c->body_left < period - from ? c->body_left : period - from;
        ssize_t n = sendfile(c->fd, source, &from, part);
        if (n < 0 && errno == EAGAIN) return false;
        if (n < 0) die("sendfile after %.40s: %s", c->out, strerror(errno));
        c->body_at += n, c->body_left -= n;
    }
    return true;
}

// Begin a request: its line and further fields. The body follows from the source.
__attribute__((format(printf, 5, 6))) static void request(
    Connection *c, int expected, long body_at, long body_length, const char *format, ...) {
    va_list given;
    va_start(given, format);
    int length = vsnprintf(c->out, sizeof c->out, format, given);
    va_end(given);
    length += snprintf(
        c->out + length, sizeof c->out - length, "Host: 127.0.0.1:%d\r\nTus-Resumable: 1.0.0\r\n\r\n", port);
    if (length + (body_length > 1024 ? 0 : body_length) > (long)sizeof c->out) die("a request of %d bytes", length);
    if (body_length && body_length <= 1024) {  // one packet, as a client that has it at hand would send it
        for (long i = 0; i < body_length; i++) c->out[length + i] = mapped[(body_at + i) % period];
        length += body_length, body_length = 0;
    }
    c->out_length = length, c->out_sent = 0;
    c->body_at = body_at, c->body_left = body_length;
    c->expected = expected, c->in_length = 0, c->busy = true;
    c->no_body = !strncmp(c->out, "HEAD ", 5);
    c->began = now();
    if (c->fd < 0) open_connection(c);
    flush(c);
}

static const char *field(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    if (!found) return NULL;
    found += strlen(name);
    while (*found == ' ') found++;
    return found;
}

// Read what has come. Returns whether the answer is whole; it is then left in `in`, its head ended by a NUL.
static bool answered(Connection *c) {
    for (;;) {
        if (c->in_length == sizeof c->in - 1) die("a long answer to %.60s: %.300s", c->out, c->in);
        ssize_t n = recv(c->fd, c->in + c->in_length, sizeof c->in - 1 - c->in_length, 0);
        if (n < 0 && errno == EAGAIN) return false;
        if (n < 0) die("recv after %.60s: %s", c->out, strerror(errno));
        if (n == 0 && !c->busy) {  // an idle connection that the server closes is opened anew when it is needed
            close_connection(c);
            return false;
        }
        if (n == 0) die("hung up on %.60s after: %.300s", c->out, c->in);
        c->in_length += n;
        c->in[c->in_length] = 0;
        char *end;
        while ((end = strstr(c->in, "\r\n\r\n")) && !strncmp(c->in + 9, "100", 3)) {
            size_t gone = end + 4 - c->in;
            memmove(c->in, c->in + gone, c->in_length - gone + 1);
            c->in_length -= gone;
        }
        if (!end) continue;
        int status = atoi(c->in + 9);
        if (!c->busy || (status != c->expected && !(c->no_body && status == 204)))
            die("%.*s: expected %d, got: %.400s", (int)strcspn(c->out, "\r"), c->out, c->expected, c->in);
        size_t have = c->in + c->in_length - (end + 4);
        end[2] = 0;
        const char *length = field(c->in, "\r\ncontent-length:"), *coding = field(c->in, "\r\ntransfer-encoding:");
        bool whole = c->no_body || status == 204;
        if (!whole && coding && !strncasecmp(coding, "chunked", 7))
            whole = have >= 5 && !memcmp(c->in + c->in_length - 5, "0\r\n\r\n", 5);
        else if (!whole)
            whole = have >= (length ? strtoul(length, NULL, 10) : 0);
        if (!whole) {
            end[2] = '\r';
            continue;
        }
        if (c->out_sent < c->out_length || c->body_left)
            die("an answer before the end of %.60s: %.300s", c->out, c->in);
        c->busy = false;
        const char *connection = field(c->in, "\r\nconnection:");
        if (connection && !strncasecmp(connection, "close", 5)) close_connection(c);
        return true;
    }
}

// Wait for events, and call `then` for every answer that is whole. `timer` and standard input end the wait, too.
static int turn(int timeout, void (*then)(Connection *)) {
    struct epoll_event events[256];
    int count = epoll_wait(waiting, events, 256, timeout);
    int others = 0;
    for (int i = 0; i < count; i++) {
        Connection *c = events[i].data.ptr;
        if (!c) {
            others++;
            continue;
        }
        if (c->fd < 0) continue;
        flush(c);
        if (answered(c)) then(c);
    }
    return others;
}

// ── One request at a time, for what is prepared ────────────────────────────────────────────────────────────────────

static void nothing(Connection *c) { (void)c; }

static void await(Connection *c) {
    while (c->busy) turn(-1, nothing);
}

static void read_location(Connection *c, Upload *upload) {
    const char *location = field(c->in, "\r\nlocation:");
    if (!location) die("no Location: %.300s", c->in);
    snprintf(upload->url, sizeof upload->url, "%.*s", (int)strcspn(location, "\r"), location);
    const char *host = strstr(upload->url, "://");
    upload->path = host ? strchr(host + 3, '/') : upload->url;
    if (!upload->path) die("a strange Location: %s", upload->url);
}

// A file name and a type, which some servers insist on.
#define METADATA "Upload-Metadata: filename YmVuY2guYmlu,filetype YXBwbGljYXRpb24vb2N0ZXQtc3RyZWFt\r\n"

static void post(Connection *c, long length, const char *fields) {
    request(
        c, 201, 0, 0, "POST %s HTTP/1.1\r\nUpload-Length: %ld\r\nContent-Length: 0\r\n" METADATA "%s", base, length,
        fields);
}

static void patch(Connection *c, long offset, long length, long now_length) {
    char fields[256] = "";
    if (*checksum) snprintf(fields, sizeof fields, "Upload-Checksum: %s\r\n", checksum);
    request(
        c, 204, c->upload->start + offset, now_length,
        "PATCH %s HTTP/1.1\r\nContent-Type: application/offset+octet-stream\r\nUpload-Offset: %ld\r\n"
        "Content-Length: %ld\r\n%s",
        c->upload->path, offset, length, fields);
}

static void head(Connection *c) { request(c, 200, 0, 0, "HEAD %s HTTP/1.1\r\n", c->upload->path); }

static Upload *create(long count, long length, const char *fields) {
    Upload *uploads = allocate(count, sizeof *uploads);
    Connection *c = allocate(1, sizeof *c);
    open_connection(c);
    for (long i = 0; i < count; i++) {
        uploads[i].start = start_of(i);
        post(c, length, fields);
        await(c);
        read_location(c, &uploads[i]);
    }
    close_connection(c);
    free(c);
    return uploads;
}

static Connection *connect_all(long count) {
    Connection *connections = allocate(count, sizeof *connections);
    for (long i = 0; i < count; i++) open_connection(&connections[i]);
    return connections;
}

// ── patch ──────────────────────────────────────────────────────────────────────────────────────────────────────────

static long bodies, size, unfinished;

static void patch_next(Connection *c) {
    note(now() - c->began);
    if (++c->step < bodies)
        patch(c, c->step * size, size, size);
    else
        unfinished--;
}

static void run_patch(void) {
    long count = unfinished = number("uploads");
    bodies = number("bodies"), size = number("size");
    Upload *uploads = create(count, bodies * size, "");
    Connection *connections = connect_all(count);
    be_ready();
    double began = now();
    for (long i = 0; i < count; i++) {
        connections[i].upload = &uploads[i];
        patch(&connections[i], 0, size, size);
    }
    while (unfinished) turn(-1, patch_next);
    result(now() - began, count * bodies * size);
    write_ids(uploads, count);
}

// ── small ──────────────────────────────────────────────────────────────────────────────────────────────────────────

static Upload *small_uploads;
static long small_count, small_next;

static void small_begin(Connection *c) {
    if (small_next == small_count) {
        unfinished--;
        return;
    }
    c->upload = &small_uploads[small_next++];
    c->step = 0;
    post(c, size, "");
}

static void small_next_step(Connection *c) {
    note(now() - c->began);
    switch (c->step++) {
    case 0:
        read_location(c, c->upload);
        patch(c, 0, size, size);
        break;
    case 1:
        head(c);
        break;
    default:
        if (!field(c->in, "\r\nupload-offset:") || atol(field(c->in, "\r\nupload-offset:")) != size)
            die("a wrong offset: %.300s", c->in);
        small_begin(c);
    }
}

static void run_small(void) {
    small_count = number("uploads"), size = number("size");
    long count = unfinished = number("connections");
    small_uploads = allocate(small_count, sizeof *small_uploads);
    for (long i = 0; i < small_count; i++) small_uploads[i].start = start_of(i);
    Connection *connections = connect_all(count);
    be_ready();
    double began = now();
    for (long i = 0; i < count; i++) small_begin(&connections[i]);
    while (unfinished) turn(-1, small_next_step);
    result(now() - began, small_count * size);
    write_ids(small_uploads, small_count);
}

// ── head ───────────────────────────────────────────────────────────────────────────────────────────────────────────

static double first_due, interval;
static long asked;
static bool stopping;

// A latency counts from the moment at which the request was due: a server that stalls does not get fewer of them.
static bool head_if_due(Connection *c) {
    double due = first_due + asked * interval;
    if (now() < due) return false;
    asked++;
    head(c);
    c->began = due;
    return true;
}

static void head_next(Connection *c) {
    note(now() - c->began);
    if (!stopping) head_if_due(c);
}

static void run_head(void) {
    long count = number("connections");
    interval = 1.0 / number("rate");
    Upload *upload = create(1, 1024, "");
    Connection *connections = connect_all(count);
    for (long i = 0; i < count; i++) {
        connections[i].upload = upload;
        head(&connections[i]);
        await(&connections[i]);
    }
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    long nanoseconds = interval * 1e9;
    struct itimerspec every = {{0, nanoseconds}, {0, nanoseconds}};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};  // no connection
    epoll_ctl(waiting, EPOLL_CTL_ADD, timer, &event);
    epoll_ctl(waiting, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    // The wait for this process to be scheduled is not the server's; it is kept short where the system lets us.
    if (setpriority(PRIO_PROCESS, 0, -10)) errno = 0;
    be_ready();
    fcntl(0, F_SETFL, O_NONBLOCK);
    double began = first_due = now();
    timerfd_settime(timer, 0, &every, NULL);
    for (char end; read(0, &end, 1) < 0;) {
        uint64_t ticks;
        if (turn(-1, head_next) && read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timer");
        for (long i = 0; i < count; i++)
            if (!connections[i].busy && !head_if_due(&connections[i])) break;
    }
    stopping = true;
    for (long i = 0; i < count; i++)
        while (connections[i].busy) turn(-1, head_next);
    result(now() - began, 0);
}

// ── slow ───────────────────────────────────────────────────────────────────────────────────────────────────────────

enum { TRICKLE = 1024 };  // bytes a second

static void slow_end(Connection *c) {
    if (c->step <= number("seconds")) die("an answer before the end of %.60s: %.300s", c->out, c->in);
    unfinished--;
}

static void trickle(Connection *c) {
    c->step++;
    c->body_left = TRICKLE;
    if (!flush(c)) die("a slow connection that the server does not read");
}

static void run_slow(void) {
    long count = unfinished = number("uploads"), seconds = number("seconds");
    size = (seconds + 1) * TRICKLE;
    Upload *uploads = create(count, size, "");
    Connection *connections = allocate(count, sizeof *connections);
    be_ready();
    for (long i = 0; i < count; i++) {
        open_connection(&connections[i]);
        connections[i].upload = &uploads[i];
        patch(&connections[i], 0, size, 0);
        // A burst of thousands would overflow the listen queue, and be a test of the kernel's retries.
        if (i % 50 == 49) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    say("open");
    wait_for_line();
    double began = now();
    for (long sent = 0; sent < count * seconds;) {
        double passed = now() - began;
        for (; sent < count * seconds && sent <= passed * count; sent++) trickle(&connections[sent % count]);
        turn(1, slow_end);
    }
    double seconds_passed = now() - began;
    say("window");
    wait_for_line();
    for (long i = 0; i < count; i++) trickle(&connections[i]);
    while (unfinished) turn(-1, slow_end);
    result(seconds_passed, count * seconds * TRICKLE);
    write_ids(uploads, count);
}

// ── concat ─────────────────────────────────────────────────────────────────────────────────────────────────────────

static void run_concat(void) {
    long count = number("parts");
    size = number("size");
    // The final upload stands before its parts.
    Upload *uploads = allocate(count + 1, sizeof *uploads), *parts = create(count, size, "Upload-Concat: partial\r\n");
    memcpy(uploads + 1, parts, count * sizeof *parts);
    char urls[2048] = "";
    Connection *c = connect_all(1);
    for (long i = 0; i < count; i++) {
        c->upload = &parts[i];
        patch(c, 0, size, size);
        await(c);
        size_t length = strlen(urls);
        snprintf(urls + length, sizeof urls - length, "%s%s", i ? " " : "", parts[i].url);
    }
    be_ready();
    request(
        c, 201, 0, 0, "POST %s HTTP/1.1\r\nContent-Length: 0\r\n" METADATA "Upload-Concat: final;%s\r\n", base, urls);
    await(c);
    note(now() - c->began);
    read_location(c, uploads);
    result(latencies[0], count * size);
    for (long i = 0; i < count; i++) uploads[i + 1].path = parts[i].path;
    write_ids(uploads, count + 1);
}

// ── get ────────────────────────────────────────────────────────────────────────────────────────────────────────────

// Returns the seconds. Without `compare` the bytes are dropped in the kernel (MSG_TRUNC): no client is faster.
static double download(Upload *upload, bool compare) {
    Connection *c = allocate(1, sizeof *c);
    open_connection(c);
    fcntl(c->fd, F_SETFL, 0);
    size_t room = 1 << 20, have = 0;
    char *data = allocate(room + 1, 1), *end = NULL;
    int length = snprintf(data, room, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", upload->path, port);
    double began = now();
    if (send(c->fd, data, length, 0) != length) die("send: %s", strerror(errno));
    while (!end) {
        ssize_t n = recv(c->fd, data + have, 4096, 0);
        if (n <= 0 || (have += n) > room - 4096) die("GET %s: no answer", upload->path);
        data[have] = 0;
        end = strstr(data, "\r\n\r\n");
    }
    end[2] = 0;
    const char *told = field(data, "\r\ncontent-length:");
    if (atoi(data + 9) != 200 || !told || atol(told) != size) die("GET %s: %.400s", upload->path, data);
    long at = have - (end + 4 - data);
    if (at > size || !matches(end + 4, at, upload->start)) die("GET %s: other bytes", upload->path);
    while (at < size) {
        ssize_t n = recv(c->fd, data, room, compare ? 0 : MSG_TRUNC);
        if (n <= 0 || at + n > size) die("GET %s: ended at %ld", upload->path, at);
        if (compare && !matches(data, n, upload->start + at)) die("GET %s: other bytes after %ld", upload->path, at);
        at += n;
    }
    double seconds = now() - began;
    close_connection(c);
    free(c);
    free(data);
    return seconds;
}

static void run_get(void) {
    size = number("size");
    Upload *upload = create(1, size, "");
    Connection *c = connect_all(1);
    c->upload = upload;
    patch(c, 0, size, size);
    await(c);
    close_connection(c);
    be_ready();
    double seconds = download(upload, false);
    note(seconds);
    result(seconds, size);
    wait_for_line();
    download(upload, true);
    write_ids(upload, 1);
}

// ── verify ─────────────────────────────────────────────────────────────────────────────────────────────────────────

// Lines "FILE<TAB>LENGTH<TAB>OFFSET<TAB>SIZE<TAB>START": FILE is LENGTH long, and SIZE bytes at OFFSET are those of the
// source from START on.
static void run_verify(void) {
    size_t room = 1 << 20;
    char *data = allocate(room, 1), path[4096];
    long length, offset, left, start, files = 0;
    while (scanf(" %4095[^\t]\t%ld\t%ld\t%ld\t%ld", path, &length, &offset, &left, &start) == 5) {
        int file = open(path, O_RDONLY | O_CLOEXEC);
        struct stat is;
        if (file < 0 || fstat(file, &is)) die("%s: %s", path, strerror(errno));
        if (is.st_size != length) die("%s: %ld bytes instead of %ld", path, (long)is.st_size, length);
        while (left) {
            ssize_t n = pread(file, data, left < (long)room ? (size_t)left : room, offset);
            if (n <= 0) die("%s: ends at %ld", path, offset);
            if (!matches(data, n, start)) die("%s: other bytes after %ld", path, offset);
            offset += n, start += n, left -= n;
        }
        close(file);
        files++;
    }
    if (!feof(stdin)) die("a strange line after %s", path);
    printf("verified %ld\n", files);
}

static void give_up(int number_of_signal) {
    static const char said[] = "no end after ten minutes\n";
    (void)number_of_signal;
    (void)!write(STDERR_FILENO, said, sizeof said - 1);
    _exit(1);
}

int main(int count, char **given) {
    static const struct {
        const char *name;
        void (*run)(void);
    } modes[] = {{"patch", run_patch}, {"small", run_small},   {"head", run_head}, {"slow", run_slow},
                 {"get", run_get},     {"concat", run_concat}, {"verify", run_verify}};
    arguments_count = count, arguments = given;
    signal(SIGALRM, give_up);
    alarm(WATCHDOG);
    source = open(text("source", NULL), O_RDONLY | O_CLOEXEC);
    struct stat is;
    if (source < 0 || fstat(source, &is)) die("source: %s", strerror(errno));
    period = is.st_size;
    mapped = mmap(NULL, period, PROT_READ, MAP_SHARED | MAP_POPULATE, source, 0);
    if (mapped == MAP_FAILED) die("mmap: %s", strerror(errno));
    checksum = text("checksum", "");
    port = atoi(text("port", "0")), base = text("base", "/");
    waiting = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; count > 1 && i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(given[1], modes[i].name)) {
            modes[i].run();
            return 0;
        }
    die("%s: no such mode", count > 1 ? given[1] : "");
}
