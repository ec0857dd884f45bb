/*
 * fuzz_parse.c - any bytes as an IP packet: nothing is read beyond them, and what is accepted holds together.
 */
#include "facts.h"
#include "reasons.h"

#include <stdlib.h>

#define MUST(claim)  \
    do {             \
        if (!(claim)) \
            abort(); \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *packet = malloc(size ? size : 1); /* exactly as long, so that the sanitizer sees one byte too many */
    if (!packet)
        abort();
    if (size)
        memcpy(packet, data, size);
    mh_facts f;
    int reason = mh_parse(packet, size, &f);
    if (reason) {
        MUST(reason == MH_REASON_MALFORMED || reason == MH_REASON_FRAGMENT_BAD);
        free(packet);
        return 0;
    }
    MUST(f.version == packet[0] >> 4 && (f.version == 4 || f.version == 6));
    MUST(f.header_len >= (f.version == 4 ? 20 : 40) && f.header_len <= f.total_len && f.total_len <= size);
    MUST(!f.has_ports || (f.proto == 6 && f.total_len - f.header_len >= 20) || (f.proto == 17 && f.total_len - f.header_len >= 8));
    MUST(!f.has_icmp || f.proto == (f.version == 4 ? 1 : 58));
    MUST(!(f.has_icmp && f.has_ports));
    MUST((f.fragment == MH_LATER) == (f.frag_offset != 0));
    MUST(f.fragment != MH_LATER || (!f.has_ports && !f.has_icmp));
    MUST(f.fragment != MH_FIRST || f.more_fragments);
    MUST(f.fragment == MH_WHOLE || (f.frag_len > 0 && f.frag_len <= f.total_len && f.frag_offset + f.frag_len <= 65535));
    MUST(f.direction == 0 && f.iface_in == 0 && f.iface_out == 0 && !f.reply && !f.has_uid && f.mark == 0 && f.app == 0);
    free(packet);
    return 0;
}
