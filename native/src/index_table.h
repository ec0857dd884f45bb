/*
 * index_table.h - receiver index -> session, for many readers and one writer at a time.
 *
 * Ownership: the table carries sessions and owners, it holds no reference to them. Threads: find() from any thread,
 * without a lock; all else by one thread at a time (the control plane, under its own lock). What a reader may still
 * be looking at is freed by reclaim() alone: the writer removes, waits until every reader has passed a quiescent
 * point, then reclaims, with no add or remove in between.
 */
#ifndef MH_INDEX_TABLE_H
#define MH_INDEX_TABLE_H

#include "session.h"

typedef struct mh_index_table mh_index_table;

mh_index_table *mh_index_table_new(void); /* NULL: out of memory */
void mh_index_table_free(mh_index_table *t);
/* Under the session's local index. owner is handed back by find(). false: out of memory, or the index is taken. */
bool mh_index_table_add(mh_index_table *t, mh_session *s, void *owner);
bool mh_index_table_remove(mh_index_table *t, const mh_session *s); /* false: not in the table */
mh_session *mh_index_table_find(const mh_index_table *t, uint32_t index, void **owner); /* NULL: unknown */
void mh_index_table_reclaim(mh_index_table *t);

#endif
