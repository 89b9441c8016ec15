/* The load of a chat: rooms in which one member writes to all others.
 *
 *   chat_client --port P [--rooms R] [--members M] [--seconds T]
 *               [--warmup T] [--pid SERVER] [--poll]
 *
 * Each member is a connection that logs in as m0, m1, ... and then, in each
 * room, the first one sends "m1,m2,...: TEXT" to all others of its room; when
 * each of them has received "m0: TEXT" the next message is sent.  So every
 * room has one message in flight, and what is counted is deliveries.  Every
 * received byte is compared.  The lines are those of Thundergram.
 *
 * Prints one JSON object.  Exit status: as echo_client's.
 */
#include "load.h"

enum {
    TEXT_BYTES = 64,
    LINE_BYTES = 128,
    MAX_LATENCIES = 1 << 20,
};

struct options {
    int port;
    int pid;
    size_t rooms;
    size_t members;
    int is_polling;
    double seconds;
    double warmup;
};

struct room {
    char *addressees; /* "m1,m2,...: " */
    size_t addressees_bytes;
    char expected[LINE_BYTES]; /* what each receiver gets now */
    size_t expected_bytes;
    size_t waiting;  /* receivers that have not got all of it */
    uint32_t number; /* of the message in flight */
    int64_t start_ns;
};

struct member {
    int fd;
    size_t got_bytes; /* of the room's message in flight */
};

static struct room *rooms;
static struct member *members;
static uint32_t latencies_ns[MAX_LATENCIES];

static _Noreturn void
closed(size_t index)
{
    fprintf(stderr, "member %zu was disconnected\n", index);
    exit(EXIT_CLOSED);
}

/* The socket is blocking for sending: lines are short, and the next one is
 * only sent when the last one has been delivered. */
static void
send_all(size_t index, const char *data, size_t size_bytes)
{
    while (size_bytes > 0) {
        ssize_t sent = send(members[index].fd, data, size_bytes, MSG_NOSIGNAL);

        if (sent < 0) {
            closed(index);
        }
        data += sent;
        size_bytes -= (size_t)sent;
    }
}

static void
send_message(size_t index, size_t per_room)
{
    struct room *room = &rooms[index];
    size_t author = index * per_room;
    char text[TEXT_BYTES + 1];
    static char line[1 << 16];
    int length;

    length = snprintf(text, sizeof(text), "message %010u", room->number++);
    memset(text + length, 'x', (size_t)(TEXT_BYTES - length));
    text[TEXT_BYTES] = '\0';
    length = snprintf(room->expected, sizeof(room->expected), "m%zu: %s\n",
                      author, text);
    room->expected_bytes = (size_t)length;
    room->waiting = per_room - 1;
    room->start_ns = now_ns();
    memcpy(line, room->addressees, room->addressees_bytes);
    length = snprintf(line + room->addressees_bytes,
                      sizeof(line) - room->addressees_bytes, "%s\n", text);
    send_all(author, line, room->addressees_bytes + (size_t)length);
}

/* 1 when the member has now got the whole message. */
static int
receive(size_t index, const struct room *room)
{
    struct member *member = &members[index];
    char buffer[LINE_BYTES];
    ssize_t got = recv(member->fd, buffer, sizeof(buffer), MSG_DONTWAIT);

    if (got < 0 && errno == EAGAIN) {
        return 0;
    }
    if (got <= 0) {
        closed(index);
    }
    if (member->got_bytes + (size_t)got > room->expected_bytes
        || memcmp(buffer, room->expected + member->got_bytes, (size_t)got)
               != 0)
    {
        fprintf(stderr, "member %zu got \"%.*s\" instead of \"%s\"\n", index,
                (int)got, buffer, room->expected + member->got_bytes);
        exit(EXIT_WRONG_ANSWER);
    }
    member->got_bytes += (size_t)got;
    if (member->got_bytes < room->expected_bytes) {
        return 0;
    }
    member->got_bytes = 0;
    return 1;
}

static void
log_in(const struct options *options, int poller)
{
    size_t total = options->rooms * options->members;

    rooms = must_alloc(options->rooms, sizeof(*rooms));
    members = must_alloc(total, sizeof(*members));
    for (size_t i = 0; i < total; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = i}};
        char login[32];
        int length = snprintf(login, sizeof(login), "m%zu\n", i);

        members[i].fd = dial(options->port);
        send_all(i, login, (size_t)length);
        if (epoll_ctl(poller, EPOLL_CTL_ADD, members[i].fd, &event) < 0) {
            die("epoll_ctl");
        }
    }
    for (size_t i = 0; i < options->rooms; i++) {
        size_t first = i * options->members;
        size_t room_bytes = options->members * 24 + 4;
        size_t used = 0;
        char *text = must_alloc(room_bytes, 1);

        for (size_t k = 1; k < options->members; k++) {
            used += (size_t)snprintf(text + used, room_bytes - used, "%sm%zu",
                                     k == 1 ? "" : ",", first + k);
        }
        used += (size_t)snprintf(text + used, room_bytes - used, ": ");
        rooms[i].addressees = text;
        rooms[i].addressees_bytes = used;
    }
}

/* Each member writes to itself until that comes back: then it is known. */
static void
wait_for_logins(const struct options *options)
{
    for (size_t i = 0; i < options->rooms * options->members; i++) {
        char line[64], expected[64];
        int sent = snprintf(line, sizeof(line), "m%zu: here\n", i);
        size_t length
            = (size_t)snprintf(expected, sizeof(expected), "m%zu: here\n", i);
        size_t got = 0;

        send_all(i, line, (size_t)sent);
        while (got < length) {
            ssize_t more = recv(members[i].fd, line, length - got, 0);

            if (more <= 0) {
                closed(i);
            }
            if (memcmp(line, expected + got, (size_t)more) != 0) {
                fprintf(stderr, "member %zu: \"%.*s\" after the login\n", i,
                        (int)more, line);
                exit(EXIT_WRONG_ANSWER);
            }
            got += (size_t)more;
        }
    }
}

static void
run(const struct options *options, int poller)
{
    static struct epoll_event events[EVENTS];
    struct both_cpus before = {{0, 0}, {0, 0}}, used;
    int64_t begin_ns = now_ns() + (int64_t)(options->warmup * 1e9);
    int64_t start_ns = 0, now;
    size_t deliveries = 0, messages = 0;
    double seconds;

    for (size_t i = 0; i < options->rooms; i++) {
        send_message(i, options->members);
    }
    for (;;) {
        int count = wait_for_events(poller, events, options->is_polling);

        now = now_ns();
        if (start_ns == 0 && now >= begin_ns) {
            before = sample_both(options->pid);
            start_ns = now = now_ns();
            deliveries = messages = 0;
        }
        if (start_ns != 0
            && (double)(now - start_ns) >= options->seconds * 1e9)
        {
            break;
        }
        for (int i = 0; i < count; i++) {
            size_t index = events[i].data.u64;
            size_t place = index / options->members;
            struct room *room = &rooms[place];

            if (!receive(index, room)) {
                continue;
            }
            deliveries++;
            if (--room->waiting == 0) {
                latencies_ns[messages++ % MAX_LATENCIES]
                    = (uint32_t)(now_ns() - room->start_ns);
                send_message(place, options->members);
            }
        }
    }
    used = both_since(before, options->pid);
    seconds = (double)(now - start_ns) / 1e9;
    if (messages > MAX_LATENCIES) {
        messages = MAX_LATENCIES;
    }
    sort_latencies(latencies_ns, messages);
    printf("{\"deliveries\": %zu, \"seconds\": %.4f, "
           "\"requests_per_s\": %.1f, \"server_us\": %.4f, "
           "\"server_load\": %.4f, \"server_delay\": %.4f, "
           "\"client_delay\": %.4f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           deliveries, seconds, (double)deliveries / seconds,
           deliveries > 0 ? used.server.run_ns / (double)deliveries / 1e3
                          : 0.0,
           used.server.run_ns / 1e9 / seconds,
           used.server.delay_ns / 1e9 / seconds,
           used.client.delay_ns / 1e9 / seconds,
           latency_us(latencies_ns, messages, 0.5),
           latency_us(latencies_ns, messages, 0.99));
}

static const char USAGE[]
    = "usage: chat_client --port P [--rooms R] [--members M] [--seconds T]\n"
      "                   [--warmup T] [--pid SERVER] [--poll]\n";

int
main(int argc, char **argv)
{
    struct options options = {
        .rooms = 1,
        .members = 101,
        .seconds = 1.0,
        .warmup = 0.3,
    };
    const struct option_spec specs[] = {
        {"--port", OPTION_INT, &options.port},
        {"--pid", OPTION_INT, &options.pid},
        {"--rooms", OPTION_SIZE, &options.rooms},
        {"--members", OPTION_SIZE, &options.members},
        {"--seconds", OPTION_DOUBLE, &options.seconds},
        {"--warmup", OPTION_DOUBLE, &options.warmup},
        {"--poll", OPTION_FLAG, &options.is_polling},
        {NULL, OPTION_FLAG, NULL},
    };
    int poller;

    parse_options(specs, argc - 1, argv + 1, USAGE);
    if (options.port <= 0 || options.rooms == 0 || options.members < 2
        || options.members > 500)
    {
        usage(USAGE);
    }
    raise_nofile();
    poller = new_poller();
    log_in(&options, poller);
    wait_for_logins(&options);
    run(&options, poller);
    return 0;
}
