/*
 * allowedips.h - cryptokey routing: longest prefix -> owner, IPv4 and IPv6.
 *
 * Ownership: a table is built once from a list and never changes (it is part of a snapshot); owner pointers are only
 * carried. Threads: lookups need no lock.
 */
#ifndef MH_ALLOWEDIPS_H
#define MH_ALLOWEDIPS_H

#include "mh.h"

typedef struct mh_allowedips mh_allowedips;
typedef struct {
    uint8_t family; /* 4 or 6 */
    uint8_t cidr;
    uint8_t addr[16]; /* network byte order; bits beyond cidr are ignored */
    void *owner;
} mh_prefix;

/* A later equal prefix wins. NULL: a bad family or cidr, or no memory. */
mh_allowedips *mh_allowedips_new(const mh_prefix *prefixes, size_t n);
void mh_allowedips_free(mh_allowedips *t);
void *mh_allowedips_find4(const mh_allowedips *t, const uint8_t addr[4]);  /* NULL: none */
void *mh_allowedips_find6(const mh_allowedips *t, const uint8_t addr[16]);

#endif
