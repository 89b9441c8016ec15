#include <Python.h>

#include "address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "errors.h"

/* sin6_flowinfo has 20 bits of flow label. */
#define PL_MAX_FLOWINFO 0xfffff

/* --- to Python --- */

static PyObject *
inet_to_python(const struct sockaddr *sa, socklen_t len)
{
    struct sockaddr_in in;
    char host[INET_ADDRSTRLEN];
    memset(&in, 0, sizeof(in));
    memcpy(&in, sa, len < sizeof(in) ? len : sizeof(in));
    if (inet_ntop(AF_INET, &in.sin_addr, host, sizeof(host)) == NULL) {
        return errors_null(errno, "address of AF_INET");
    }
    return Py_BuildValue("(si)", host, (int)ntohs(in.sin_port));
}

static PyObject *
inet6_to_python(const struct sockaddr *sa, socklen_t len)
{
    struct sockaddr_in6 in6;
    char host[INET6_ADDRSTRLEN];
    memset(&in6, 0, sizeof(in6));
    memcpy(&in6, sa, len < sizeof(in6) ? len : sizeof(in6));
    if (inet_ntop(AF_INET6, &in6.sin6_addr, host, sizeof(host)) == NULL) {
        return errors_null(errno, "address of AF_INET6");
    }
    return Py_BuildValue("(siII)", host, (int)ntohs(in6.sin6_port),
                         (unsigned int)ntohl(in6.sin6_flowinfo),
                         (unsigned int)in6.sin6_scope_id);
}

static PyObject *
unix_to_python(const struct sockaddr *sa, socklen_t len)
{
    const size_t before = offsetof(struct sockaddr_un, sun_path);
    if (len <= before) {
        return PyUnicode_FromStringAndSize(NULL, 0);
    }
    const char *path = (const char *)sa + before;
    size_t size = len - before;
    if (path[0] == '\0') {
        return PyBytes_FromStringAndSize(path, (Py_ssize_t)size);
    }
    /* The NUL is missing where a path fills all of sun_path. */
    return PyUnicode_DecodeFSDefaultAndSize(path,
                                            (Py_ssize_t)strnlen(path, size));
}

static PyObject *
unknown_to_python(const struct sockaddr *sa, socklen_t len)
{
    struct sockaddr copy;
    memset(&copy, 0, sizeof(copy));
    memcpy(&copy, sa, len < sizeof(copy) ? len : sizeof(copy));
    PyObject *data
        = PyBytes_FromStringAndSize(copy.sa_data, sizeof(copy.sa_data));
    return data != NULL ? Py_BuildValue("(iN)", (int)copy.sa_family, data)
                        : NULL;
}

PyObject *
address_to_python(const struct sockaddr *sa, socklen_t len)
{
    sa_family_t family;
    if (len < offsetof(struct sockaddr, sa_family) + sizeof(family)) {
        Py_RETURN_NONE;
    }
    memcpy(&family, (const char *)sa + offsetof(struct sockaddr, sa_family),
           sizeof(family));
    switch (family) {
    case AF_INET:
        return inet_to_python(sa, len);
    case AF_INET6:
        return inet6_to_python(sa, len);
    case AF_UNIX:
        return unix_to_python(sa, len);
    default:
        return unknown_to_python(sa, len);
    }
}

/* --- from Python --- */

static int
wrong_shape(const char *who, const char *expected, PyObject *address)
{
    errors_bad_type(address, "%s(): expected %s", who, expected);
    return -1;
}

/* An int of 0 .. max; 0, or -1 with TypeError or OverflowError. */
static int
get_number(PyObject *obj, const char *who, const char *what, uint32_t max,
           uint32_t *out)
{
    PyObject *number = PyNumber_Index(obj); /* call-out */
    if (number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            errors_bad_type(obj, "%s(): %s must be an int", who, what);
        }
        return -1;
    }
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow != 0 || value < 0 || value > (long long)max) {
        errors_bad_value(PyExc_OverflowError, number,
                         "%s(): %s must be 0-%lu, not", who, what,
                         (unsigned long)max);
        Py_DECREF(number);
        return -1;
    }
    Py_DECREF(number);
    *out = (uint32_t)value;
    return 0;
}

/* The text of a host, borrowed from it.  A str that is not ASCII gives an
 * empty *text and *is_name: only IDNA and a look-up can deal with it.  0, or
 * -1 with TypeError or ValueError. */
static int
get_host(PyObject *host, const char *who, const char **text, bool *is_name)
{
    Py_ssize_t size;
    *is_name = false;
    if (PyUnicode_Check(host)) {
        if (PyUnicode_FindChar(host, 0, 0, PyUnicode_GET_LENGTH(host), 1) >= 0)
        {
            goto has_nul;
        }
        if (!PyUnicode_IS_ASCII(host)) {
            *text = "";
            *is_name = true;
            return 0;
        }
        *text = PyUnicode_AsUTF8AndSize(host, &size);
        return *text != NULL ? 0 : -1;
    }
    if (PyBytes_Check(host)) {
        *text = PyBytes_AS_STRING(host);
        size = PyBytes_GET_SIZE(host);
    }
    else if (PyByteArray_Check(host)) {
        *text = PyByteArray_AS_STRING(host);
        size = PyByteArray_GET_SIZE(host);
    }
    else {
        errors_bad_type(host, "%s(): host must be str, bytes or bytearray",
                        who);
        return -1;
    }
    if (strlen(*text) == (size_t)size) {
        return 0;
    }

has_nul:
    PyErr_Format(PyExc_ValueError,
                 "%s(): host must not contain a null character: %R", who,
                 host);
    return -1;
}

static int
inet_from_python(PyObject *address, const char *who, struct sockaddr_in *in)
{
    uint32_t port;
    const char *host;
    bool is_name;
    if (!PyTuple_Check(address) || PyTuple_GET_SIZE(address) != 2) {
        return wrong_shape(who, "an AF_INET address (host, port)", address);
    }
    /* The numbers first: their __index__ might change a bytearray. */
    if (get_number(PyTuple_GET_ITEM(address, 1), who, "port", 65535, &port) < 0
        || get_host(PyTuple_GET_ITEM(address, 0), who, &host, &is_name) < 0)
    {
        return -1;
    }
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)port);
    if (is_name) {
        return 0;
    }
    if (host[0] == '\0') {
        in->sin_addr.s_addr = htonl(INADDR_ANY);
        return 1;
    }
    if (strcmp(host, "<broadcast>") == 0) {
        in->sin_addr.s_addr = htonl(INADDR_BROADCAST);
        return 1;
    }
    return inet_pton(AF_INET, host, &in->sin_addr) == 1;
}

/* The number of a zone ("lo", "2"), or 0 if there is none of that name. */
static uint32_t
zone_index(const char *zone)
{
    unsigned int index = if_nametoindex(zone);
    if (index != 0 || !Py_ISDIGIT(zone[0])) {
        return index;
    }
    char *end;
    errno = 0;
    unsigned long long number = strtoull(zone, &end, 10);
    return errno == 0 && *end == '\0' && number <= UINT32_MAX
               ? (uint32_t)number
               : 0;
}

/* 1 or 0, as address_from_python.  *zone is 0 where the text has none. */
static int
parse_inet6(const char *host, struct in6_addr *out, uint32_t *zone)
{
    char plain[INET6_ADDRSTRLEN];
    const char *percent = strchr(host, '%');
    *zone = 0;
    if (percent == NULL) {
        return inet_pton(AF_INET6, host, out) == 1;
    }
    size_t size = (size_t)(percent - host);
    if (size >= sizeof(plain)) {
        return 0;
    }
    memcpy(plain, host, size);
    plain[size] = '\0';
    if (inet_pton(AF_INET6, plain, out) != 1) {
        return 0;
    }
    *zone = zone_index(percent + 1);
    return *zone != 0;
}

static int
inet6_from_python(PyObject *address, const char *who, struct sockaddr_in6 *in6)
{
    uint32_t port, flowinfo = 0, scope_id = 0, zone;
    const char *host;
    bool is_name;
    Py_ssize_t n = PyTuple_Check(address) ? PyTuple_GET_SIZE(address) : 0;
    if (n < 2 || n > 4) {
        return wrong_shape(
            who, "an AF_INET6 address (host, port[, flowinfo[, scope_id]])",
            address);
    }
    if (get_number(PyTuple_GET_ITEM(address, 1), who, "port", 65535, &port) < 0
        || (n > 2
            && get_number(PyTuple_GET_ITEM(address, 2), who, "flowinfo",
                          PL_MAX_FLOWINFO, &flowinfo)
                   < 0)
        || (n > 3
            && get_number(PyTuple_GET_ITEM(address, 3), who, "scope_id",
                          UINT32_MAX, &scope_id)
                   < 0)
        || get_host(PyTuple_GET_ITEM(address, 0), who, &host, &is_name) < 0)
    {
        return -1;
    }
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons((uint16_t)port);
    in6->sin6_flowinfo = htonl(flowinfo);
    in6->sin6_scope_id = scope_id;
    if (is_name) {
        return 0;
    }
    if (host[0] == '\0') {
        in6->sin6_addr = in6addr_any;
        return 1;
    }
    if (strcmp(host, "<broadcast>") == 0) {
        errors_from_errno(EAFNOSUPPORT,
                          "%s(): AF_INET6 has no broadcast address: %R", who,
                          address);
        return -1;
    }
    if (!parse_inet6(host, &in6->sin6_addr, &zone)) {
        return 0;
    }
    if (scope_id == 0) {
        in6->sin6_scope_id = zone;
    }
    return 1;
}

/* The bytes of a path; new reference. */
static PyObject *
get_path(PyObject *address, const char *who)
{
    if (PyObject_CheckBuffer(address)) {
        return PyBytes_FromObject(address);
    }
    PyObject *path = PyOS_FSPath(address); /* call-out */
    if (path == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            wrong_shape(who, "an AF_UNIX address (str, bytes or os.PathLike)",
                        address);
        }
        return NULL;
    }
    if (PyUnicode_Check(path)) {
        Py_SETREF(path, PyUnicode_EncodeFSDefault(path));
    }
    return path;
}

static int
unix_from_python(PyObject *address, const char *who, struct sockaddr_un *un,
                 socklen_t *len)
{
    int rc = -1;
    PyObject *path = get_path(address, who);
    if (path == NULL) {
        return -1;
    }
    const char *text = PyBytes_AS_STRING(path);
    size_t size = (size_t)PyBytes_GET_SIZE(path);
    /* Linux: a name that starts with NUL is not in the file system, has no
     * terminator and may contain any byte; bind('') lets the kernel pick
     * one. */
    bool abstract = text[0] == '\0';
    if (!abstract && strlen(text) != size) {
        PyErr_Format(PyExc_ValueError,
                     "%s(): path must not contain a null byte: %R", who,
                     address);
    }
    else if (size + !abstract > sizeof(un->sun_path)) {
        errors_from_errno(ENAMETOOLONG, "%s(): AF_UNIX path %R", who, address);
    }
    else {
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, text, size);
        *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size
                           + !abstract);
        rc = 1;
    }
    Py_DECREF(path);
    return rc;
}

int
address_from_python(int family, PyObject *address, const char *who,
                    struct sockaddr_storage *out, socklen_t *len)
{
    int rc;
    memset(out, 0, sizeof(*out));
    *len = 0;
    switch (family) {
    case AF_INET:
        rc = inet_from_python(address, who, (struct sockaddr_in *)out);
        *len = rc == 1 ? sizeof(struct sockaddr_in) : 0;
        return rc;
    case AF_INET6:
        rc = inet6_from_python(address, who, (struct sockaddr_in6 *)out);
        *len = rc == 1 ? sizeof(struct sockaddr_in6) : 0;
        return rc;
    case AF_UNIX:
        return unix_from_python(address, who, (struct sockaddr_un *)out, len);
    default:
        return 0;
    }
}
