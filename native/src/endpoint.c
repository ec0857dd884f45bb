/* endpoint.c - endpoints to and from socket addresses. */
#include "endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static size_t address_len(uint8_t family) { return family == 4 ? 4 : 16; }

bool mh_endpoint_same(const mh_endpoint *a, const mh_endpoint *b) {
    return a->family == b->family && a->port == b->port && a->scope == b->scope &&
           memcmp(a->addr, b->addr, address_len(a->family)) == 0;
}

socklen_t mh_endpoint_to_sockaddr(const mh_endpoint *e, struct sockaddr_storage *out) {
    memset(out, 0, sizeof *out);
    if (e->family == 4) {
        struct sockaddr_in *a = (struct sockaddr_in *)out;
        a->sin_family = AF_INET;
        a->sin_port = htons(e->port);
        memcpy(&a->sin_addr, e->addr, 4);
        return sizeof *a;
    }
    if (e->family == 6) {
        struct sockaddr_in6 *a = (struct sockaddr_in6 *)out;
        a->sin6_family = AF_INET6;
        a->sin6_port = htons(e->port);
        a->sin6_scope_id = e->scope;
        memcpy(&a->sin6_addr, e->addr, 16);
        return sizeof *a;
    }
    return 0;
}

bool mh_endpoint_from_sockaddr(mh_endpoint *e, const struct sockaddr_storage *from) {
    memset(e, 0, sizeof *e);
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *a = (const struct sockaddr_in *)from;
        e->family = 4;
        e->port = ntohs(a->sin_port);
        memcpy(e->addr, &a->sin_addr, 4);
        return true;
    }
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)from;
        e->family = 6;
        e->port = ntohs(a->sin6_port);
        e->scope = a->sin6_scope_id;
        memcpy(e->addr, &a->sin6_addr, 16);
        return true;
    }
    return false;
}
