/* needs: spool */
/* A frame of a spool's segment (spool/frame.c), then the records in it: what an applier reads from a
 * file that may be damaged.
 *
 * Held to: what was encoded decodes to the same; a frame that passes gives exactly the records that
 * its header counts; one flipped bit is noticed; nothing is handed out on failure. */
#include "sidespool/record.h"
#include "spool/spool_internal.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

/* The input: a byte that says what it is, then that. */
enum {
    IS_FRAME,   /* as it would lie in the file */
    IS_FORGED,  /* a frame whose length, number and checksum are set right: what no damage gets past */
    IS_PAYLOAD, /* the payload alone: framed here, read back */
    IS_RECORDS, /* records, each behind its length in two bytes: made into a payload, framed, read back */
    IS_MODES
};
#define FIRST 42u
#define RAW_MOST (1u << 20) /* a forger may ask for a gigabyte; a fuzzer has other things to do */
#define ARENA_LIMIT ((size_t)1 << 20)

static const char file[] = "stream-00000000000000000042.mdb";

static void check_refusal(ss_status status, const ss_error *err) {
    fuzz_check_error(status, err);
    FUZZ_CHECK_SAY(status == SS_STOP, err->text);
    FUZZ_CHECK_SAY(strstr(err->text, file) != NULL && strstr(err->text, "sequence 42") != NULL,
                   err->text);
}

static void read_records(const ss_buf *read, uint32_t count) {
    /* Without the buffer's spare room, in which a step too far would not be seen. */
    ss_buf exact = {.ptr = fuzz_exact(ss_bytes_of(read->ptr, read->len)), .len = read->len};
    const ss_buf *payload = &exact;
    ss_arena *arena = ss_arena_new(ARENA_LIMIT);
    ss_bytes record;
    size_t at = 0;
    FUZZ_CHECK(arena != NULL);
    while (at < payload->len) {
        size_t before = at;
        Sidespool__Record *ret = NULL;
        ss_error err = {0};
        FUZZ_CHECK(ss_frame_next(payload, &at, &record));
        FUZZ_CHECK(at > before && at <= payload->len && count-- > 0);
        ss_arena_reset(arena);
        ss_status status = ss_record_get(record, arena, file, &ret, &err);
        FUZZ_CHECK((status == SS_OK) == (ret != NULL));
        fuzz_check_error(status, &err);
    }
    FUZZ_CHECK(count == 0 && !ss_frame_next(payload, &at, &record));
    ss_arena_free(arena);
    free(exact.ptr);
}

/* CRC32C finds every error of one bit, wherever in the frame it is. */
static void check_bit_flips(ss_bytes frame) {
    static const ss_frame_header untouched = {.first = 99};
    uint8_t *copy = fuzz_exact(frame);
    size_t spots[] = {0, 5, 8, 17, 21, 25, 29, 33, 36, 39, frame.len / 2, frame.len - 1};
    for (size_t i = 0; i < sizeof spots / sizeof *spots; i++) {
        ss_frame_header header = untouched;
        ss_error err = {0};
        copy[spots[i]] ^= (uint8_t)(1u << (frame.len + i) % 8);
        ss_status status = ss_frame_check(ss_bytes_of(copy, frame.len), FIRST, file, &header, &err);
        FUZZ_CHECK(status == SS_STOP && memcmp(&header, &untouched, sizeof header) == 0);
        check_refusal(status, &err);
        copy[spots[i]] = frame.ptr[spots[i]];
    }
    free(copy);
}

/* *ret_read: the payload, when the whole frame passes. */
static bool read_frame(ZSTD_DCtx *zstd, ss_bytes frame, ss_buf *ret_read) {
    ss_frame_header header = {0};
    ss_error err = {0};
    ss_status status = ss_frame_check(frame, FIRST, file, &header, &err);
    if (status != SS_OK) {
        check_refusal(status, &err);
        return false;
    }
    FUZZ_CHECK(header.first == FIRST && header.count > 0 && header.count <= header.raw_bytes);
    FUZZ_CHECK(frame.len == FRAME_HEADER_BYTES + (size_t)header.packed_bytes);
    check_bit_flips(frame);
    if (header.raw_bytes > RAW_MOST && header.raw_bytes <= SPOOL_RECORD_LIMIT)
        return false;
    status = ss_frame_decode(zstd, frame, &header, file, ret_read, &err);
    if (status != SS_OK) {
        check_refusal(status, &err);
        return false;
    }
    FUZZ_CHECK(ret_read->len == header.raw_bytes);
    read_records(ret_read, header.count);
    return true;
}

static void forge(uint8_t *frame, size_t len) {
    if (len < FRAME_HEADER_BYTES)
        return;
    memcpy(frame, "SSFR", 4);
    ss_put_u64(frame + 8, frame[8] == 0 ? 0 : FIRST);
    ss_put_u32(frame + 24, (uint32_t)(len - FRAME_HEADER_BYTES));
    uint32_t crc = ss_crc32c(0, frame, 36);
    ss_put_u32(frame + 36,
               ss_crc32c(crc, frame + FRAME_HEADER_BYTES, len - FRAME_HEADER_BYTES));
}

/* How many records a payload holds, counted apart from the product; 0: it is not one. */
static uint32_t count_records(ss_bytes payload) {
    uint32_t count = 0;
    for (size_t at = 0; at < payload.len; count++) {
        uint64_t len = 0;
        unsigned shift = 0;
        uint8_t byte;
        do {
            if (at == payload.len || shift > 28)
                return 0;
            byte = payload.ptr[at++];
            len |= (uint64_t)(byte & 0x7F) << shift;
            shift += 7;
        } while (byte >= 0x80);
        if (len > payload.len - at)
            return 0;
        at += (size_t)len;
    }
    return count;
}

static void frame_and_read(ss_bytes payload, uint32_t told, ZSTD_DCtx *zstd) {
    ZSTD_CCtx *packer = ZSTD_createCCtx();
    uint32_t crc = 0, count = count_records(payload);
    ss_error err = {0};
    ss_buf frame, read;
    FUZZ_CHECK(packer != NULL);
    ss_buf_init(&frame);
    ss_buf_init(&read);
    FUZZ_CHECK(told == 0 || told == count);
    ss_status status = ss_frame_encode(packer, 1, payload, FIRST, count, 7, &frame, &crc, &err);
    FUZZ_CHECK_SAY(status == SS_OK, err.text);
    uint8_t *exact = fuzz_exact(ss_bytes_of(frame.ptr, frame.len));
    bool ok = read_frame(zstd, ss_bytes_of(exact, frame.len), &read);
    FUZZ_CHECK(ok == (count > 0));
    if (ok)
        FUZZ_CHECK(ss_bytes_eq(payload, ss_bytes_of(read.ptr, read.len)));
    free(exact);
    ss_buf_done(&frame);
    ss_buf_done(&read);
    ZSTD_freeCCtx(packer);
}

static void records_and_read(fuzz_input *in, ZSTD_DCtx *zstd) {
    ss_buf payload;
    uint32_t count = 0;
    ss_buf_init(&payload);
    for (; in->rest.len > 0; count++) {
        uint8_t length[10];
        ss_bytes record = fuzz_bytes(in, fuzz_u16(in));
        ss_buf_put(&payload, length, ss_varint_put(length, record.len));
        ss_buf_put(&payload, record.ptr, record.len);
    }
    FUZZ_CHECK(!payload.bad);
    frame_and_read(ss_bytes_of(payload.ptr, payload.len), count, zstd);
    ss_buf_done(&payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {ss_bytes_of(data, size)};
    uint8_t mode = fuzz_u8(&in) % IS_MODES;
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    FUZZ_CHECK(zstd != NULL);
    if (mode == IS_RECORDS) {
        records_and_read(&in, zstd);
    } else {
        uint8_t *exact = fuzz_exact(in.rest);
        ss_bytes bytes = ss_bytes_of(exact, in.rest.len);
        ss_buf read;
        ss_buf_init(&read);
        if (mode == IS_PAYLOAD) {
            frame_and_read(bytes, 0, zstd);
        } else {
            if (mode == IS_FORGED)
                forge(exact, bytes.len);
            (void)read_frame(zstd, bytes, &read);
        }
        ss_buf_done(&read);
        free(exact);
    }
    ZSTD_freeDCtx(zstd);
    return 0;
}
