/* How the load client's bytes travel: TCP, TLS over TCP, or UDP.
 *
 * send and recv mean what the system calls mean: -1 with EAGAIN where nothing
 * can be done now.  TLS is there where the compiler found OpenSSL's headers;
 * the server's certificate is not checked.
 */
#ifndef PL_BENCH_LINK_H
#define PL_BENCH_LINK_H

#include "common.h"

#if defined(__has_include)
#if __has_include(<openssl/ssl.h>)
#define PL_HAS_TLS 1
#endif
#endif

#ifdef PL_HAS_TLS
#include <openssl/ssl.h>
#else
typedef struct ssl_st SSL;
#endif

enum link_kind { LINK_TCP, LINK_TLS, LINK_UDP };

struct link {
    int fd;
    SSL *ssl; /* owned; NULL but for TLS */
};

#ifdef PL_HAS_TLS

static inline SSL *
tls_open(int fd)
{
    static SSL_CTX *context;
    SSL *ssl;

    if (context == NULL) {
        context = SSL_CTX_new(TLS_client_method());
        if (context == NULL) {
            die("SSL_CTX_new");
        }
        SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE
                                      | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    ssl = SSL_new(context);
    if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1) {
        die("TLS handshake");
    }
    return ssl;
}

/* What SSL_read and SSL_write said, as recv and send would say it. */
static inline ssize_t
tls_result(SSL *ssl, int result)
{
    if (result > 0) {
        return result;
    }
    switch (SSL_get_error(ssl, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        errno = EPROTO;
        return -1;
    }
}

static inline ssize_t
link_send(struct link *link, const void *data, size_t size_bytes)
{
    if (link->ssl != NULL) {
        return tls_result(link->ssl,
                          SSL_write(link->ssl, data, (int)size_bytes));
    }
    return send(link->fd, data, size_bytes, MSG_NOSIGNAL);
}

static inline ssize_t
link_recv(struct link *link, void *buffer, size_t size_bytes)
{
    if (link->ssl != NULL) {
        return tls_result(link->ssl,
                          SSL_read(link->ssl, buffer, (int)size_bytes));
    }
    return recv(link->fd, buffer, size_bytes, 0);
}

#else

static inline SSL *
tls_open(int fd)
{
    (void)fd;
    fputs("built without OpenSSL: no TLS\n", stderr);
    exit(1);
}

static inline ssize_t
link_send(struct link *link, const void *data, size_t size_bytes)
{
    return send(link->fd, data, size_bytes, MSG_NOSIGNAL);
}

static inline ssize_t
link_recv(struct link *link, void *buffer, size_t size_bytes)
{
    return recv(link->fd, buffer, size_bytes, 0);
}

#endif

static inline struct link
link_open(enum link_kind kind, int port)
{
    struct link link = {.fd = -1, .ssl = NULL};
    struct sockaddr_in address = loopback(port);

    if (kind == LINK_UDP) {
        link.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (link.fd < 0
            || connect(link.fd, (struct sockaddr *)&address, sizeof(address))
                   < 0)
        {
            die("UDP socket");
        }
        return link;
    }
    link.fd = dial(port);
    if (kind == LINK_TLS) {
        link.ssl = tls_open(link.fd);
    }
    return link;
}

/* By a reset, so that thousands of them leave no TIME_WAIT behind. */
static inline void
link_reset(struct link *link)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};

#ifdef PL_HAS_TLS
    SSL_free(link->ssl);
    link->ssl = NULL;
#endif
    setsockopt(link->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(link->fd);
    link->fd = -1;
}

#endif
