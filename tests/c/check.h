/* What every C test needs: a check that is never compiled out. */
#ifndef PL_TESTS_CHECK_H
#define PL_TESTS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, \
                    __func__, #condition); \
            exit(1); \
        } \
    } while (0)

/* Compares integers, and shows both when they differ. */
#define CHECK_EQ(actual, expected) \
    do { \
        long long check_actual = (long long)(actual); \
        long long check_expected = (long long)(expected); \
        if (check_actual != check_expected) { \
            fprintf(stderr, "%s:%d: %s: %s is %lld, not %lld\n", __FILE__, \
                    __LINE__, __func__, #actual, check_actual, \
                    check_expected); \
            exit(1); \
        } \
    } while (0)

/* A small random generator: the same numbers on every machine. */
static inline uint32_t
check_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005)
             + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

#endif
