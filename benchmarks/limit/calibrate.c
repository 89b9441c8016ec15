/* How fast is this core now?
 *
 *   calibrate [MILLISECONDS]
 *
 * Prints two medians: nanoseconds of one send + recv of 1 KiB over a loopback
 * TCP connection (the kernel's path, which is most of an echo server's cost),
 * and nanoseconds of one step of a fixed loop in user mode that computes and
 * walks a table larger than the first-level cache.  A shared machine changes
 * its speed from one second to the next; a measurement is only worth keeping
 * when the readings before and after it agree.
 */
#include "common.h"

enum {
    MESSAGE_BYTES = 1024,
    EXCHANGES = 50,     /* about 0.1 ms: short against a spell of slowness */
    STEPS = 20000,
    MAX_SAMPLES = 4096,
    TABLE = 1 << 16,    /* 256 KiB of uint32_t: beyond L1, inside L2 */
};

static double kernel_ns[MAX_SAMPLES];
static double user_ns[MAX_SAMPLES];
static uint32_t table[TABLE];

static double
exchange(int from, int to)
{
    static char message[MESSAGE_BYTES];
    int64_t start = now_ns();

    for (int i = 0; i < EXCHANGES; i++) {
        if (send(from, message, sizeof(message), 0) != MESSAGE_BYTES) {
            die("send");
        }
        if (recv(to, message, sizeof(message), MSG_WAITALL) != MESSAGE_BYTES) {
            die("recv");
        }
    }
    return (double)(now_ns() - start) / EXCHANGES;
}

static double
compute(uint32_t *state)
{
    uint32_t x = *state;
    int64_t start = now_ns();

    for (int i = 0; i < STEPS; i++) {
        uint32_t *cell;

        x = x * 1664525u + 1013904223u;
        cell = &table[x >> 16];
        *cell += x;
        /* A branch that no predictor learns, as an interpreter has many. */
        if (*cell & 0x100) {
            x ^= *cell >> 7;
        }
    }
    *state = x;
    return (double)(now_ns() - start) / STEPS;
}

int
main(int argc, char **argv)
{
    long milliseconds = argc > 1 ? atol(argv[1]) : 40;
    int port = 0;
    int listener = listen_on(&port);
    int client = dial(port);
    int server = accept(listener, NULL, NULL);
    int64_t end = now_ns() + milliseconds * 1000000;
    uint32_t state = 1;
    size_t count = 0;

    if (server < 0) {
        die("accept");
    }
    exchange(client, server);
    compute(&state);
    do {
        kernel_ns[count] = exchange(client, server);
        user_ns[count] = compute(&state);
        count++;
    } while (count < MAX_SAMPLES && now_ns() < end);
    printf("%.1f %.3f\n", median(kernel_ns, count), median(user_ns, count));
    return 0;
}
