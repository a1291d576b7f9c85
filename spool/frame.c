/* A frame: many records, compressed together, with a header that proves them (spool/FORMAT.md gives the bytes).
 *
 * The CRC covers the header and the compressed payload, so nothing is decompressed, and no length believed, before it
 * agrees. Each frame also carries its predecessor's CRC: frames of two histories never pass as one. */
#include "spool/spool_internal.h"

#include <isa-l/crc.h>
#include <limits.h>
#include <zstd_errors.h>

static const uint8_t frame_magic[4] = {'S', 'S', 'F', 'R'};

uint32_t ss_crc32c(uint32_t crc, const void *ptr, size_t len) {
    const uint8_t *at = ptr;
    crc = ~crc;
    while (len > 0) {
        int part = len > INT_MAX ? INT_MAX : (int)len;
        /* isa-l reads only; its prototype lacks the const */
        crc = crc32_iscsi((unsigned char *)(uintptr_t)at, part, crc);
        at += part;
        len -= (size_t)part;
    }
    return ~crc;
}

size_t ss_varint_put(uint8_t *to, uint64_t value) {
    size_t n = 0;
    while (value >= 0x80) {
        to[n++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    to[n++] = (uint8_t)value;
    return n;
}

bool ss_frame_next(const ss_buf *payload, size_t *at, ss_bytes *ret) {
    uint64_t len = 0;
    size_t pos = *at;
    for (unsigned shift = 0;; shift += 7) {
        if (pos >= payload->len || shift > 28)
            return false;
        uint8_t byte = payload->ptr[pos++];
        len |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            break;
    }
    if (len > payload->len - pos)
        return false;
    *ret = ss_bytes_of(payload->ptr + pos, (size_t)len);
    *at = pos + (size_t)len;
    return true;
}

ss_status ss_frame_encode(ZSTD_CCtx *zstd, int level, ss_bytes payload, uint64_t first, uint32_t count,
                          uint32_t prev_crc, ss_buf *out, uint32_t *ret_crc, ss_error *reterr) {
    size_t bound = ZSTD_compressBound(payload.len);
    uint8_t *head = ss_buf_reserve(out, FRAME_HEADER_BYTES + bound);
    if (head == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory for a frame of %zu bytes", payload.len);
    size_t packed =
        ZSTD_compressCCtx(zstd, head + FRAME_HEADER_BYTES, bound, payload.ptr, payload.len, level);
    if (ZSTD_getErrorCode(packed) == ZSTD_error_memory_allocation)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory compressing a frame of %zu bytes", payload.len);
    if (ZSTD_isError(packed) || packed > UINT32_MAX || payload.len > UINT32_MAX)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_INTERNAL, "zstd could not compress a frame of %zu bytes: %s",
                       payload.len, ZSTD_isError(packed) ? ZSTD_getErrorName(packed) : "too large");
    memcpy(head, frame_magic, 4);
    head[4] = (uint8_t)SPOOL_FORMAT;
    head[5] = 0;
    head[6] = (uint8_t)SPOOL_FORMAT; /* min_reader */
    head[7] = 0;
    ss_put_u64(head + 8, first);
    ss_put_u32(head + 16, count);
    ss_put_u32(head + 20, (uint32_t)payload.len);
    ss_put_u32(head + 24, (uint32_t)packed);
    ss_put_u32(head + 28, 0);
    ss_put_u32(head + 32, prev_crc);
    uint32_t crc = ss_crc32c(0, head, 36);
    crc = ss_crc32c(crc, head + FRAME_HEADER_BYTES, packed);
    ss_put_u32(head + 36, crc);
    out->len += FRAME_HEADER_BYTES + packed;
    *ret_crc = crc;
    return SS_OK;
}

static ss_status damaged(ss_error *reterr, const char *file, uint64_t sequence, const char *what) {
    return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED,
                   "%s is damaged: frame at sequence %llu: %s; run `sidespool spool verify`, then resync the routes "
                   "that have not passed it",
                   file, (unsigned long long)sequence, what);
}

ss_status ss_frame_check(ss_bytes frame, uint64_t expected_first, const char *file, ss_frame_header *ret,
                         ss_error *reterr) {
    const uint8_t *p = frame.ptr;
    if (frame.len < FRAME_HEADER_BYTES)
        return damaged(reterr, file, expected_first, "length: shorter than a header");
    if (memcmp(p, frame_magic, 4) != 0)
        return damaged(reterr, file, expected_first, "magic: not a frame");
    unsigned min_reader = (unsigned)p[6] | (unsigned)p[7] << 8;
    ss_frame_header h = {.first = ss_get_u64(p + 8),
                         .count = ss_get_u32(p + 16),
                         .raw_bytes = ss_get_u32(p + 20),
                         .packed_bytes = ss_get_u32(p + 24),
                         .prev_crc = ss_get_u32(p + 32),
                         .crc = ss_get_u32(p + 36)};
    if (frame.len != (size_t)FRAME_HEADER_BYTES + h.packed_bytes)
        return damaged(reterr, file, expected_first, "length: the payload's size disagrees with the header");
    uint32_t crc = ss_crc32c(0, p, 36);
    crc = ss_crc32c(crc, p + FRAME_HEADER_BYTES, h.packed_bytes);
    if (crc != h.crc)
        return damaged(reterr, file, expected_first, "crc: the checksum disagrees");
    if (min_reader > SPOOL_FORMAT)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_VERSION,
                       "%s: frame at sequence %llu asks for a reader of format %u, this is %u; upgrade the reader", file,
                       (unsigned long long)expected_first, min_reader, SPOOL_FORMAT);
    if (h.first != expected_first)
        return damaged(reterr, file, expected_first, "sequence: the header names another one");
    if (h.count == 0 || h.count > h.raw_bytes)
        return damaged(reterr, file, expected_first, "count: impossible number of records");
    *ret = h;
    return SS_OK;
}

ss_status ss_frame_decode(ZSTD_DCtx *zstd, ss_bytes frame, const ss_frame_header *header, const char *file,
                          ss_buf *out, ss_error *reterr) {
    if (header->raw_bytes > SPOOL_RECORD_LIMIT + SPOOL_FRAME_BYTES * 64)
        return damaged(reterr, file, header->first, "length: larger than any frame");
    ss_buf_clear(out);
    uint8_t *to = ss_buf_reserve(out, header->raw_bytes);
    if (to == NULL) {
        out->bad = false;
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "%s: out of memory for a frame of %u bytes", file,
                       header->raw_bytes);
    }
    size_t got = ZSTD_decompressDCtx(zstd, to, header->raw_bytes, frame.ptr + FRAME_HEADER_BYTES, header->packed_bytes);
    if (ZSTD_isError(got))
        return damaged(reterr, file, header->first, "zstd: cannot be decompressed");
    if (got != header->raw_bytes)
        return damaged(reterr, file, header->first, "zstd: decompresses to another length");
    out->len = got;
    size_t at = 0;
    ss_bytes record;
    uint32_t count = 0;
    while (at < out->len && ss_frame_next(out, &at, &record))
        count++;
    if (at != out->len || count != header->count)
        return damaged(reterr, file, header->first, "records: their lengths disagree with the header");
    return SS_OK;
}
