/* The configuration file as bytes: everything that can be wrong with it before YAML comes into
 * play. */
#include "common/config_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGEST_FILE ((off_t)1 << 20)

static ss_status open_failed(const char *path, int err, ss_error *reterr) {
    if (err == ENOENT)
        return ss_fail_at(reterr, SS_STOP, "SS-CFG-0001", __func__, 0,
                          "there is no configuration file %s; check the path given with --config",
                          path);
    if (err == EACCES)
        return ss_fail_at(reterr, SS_STOP, "SS-CFG-0001", __func__, 0,
                          "the configuration file %s may not be read by this user (uid %u); check "
                          "its owner and mode and "
                          "those of its folders",
                          path, (unsigned)geteuid());
    return ss_fail_sys(reterr, SS_STOP, "SS-CFG-0001", err,
                       "the configuration file %s cannot be opened", path);
}

/* Length of the well-formed UTF-8 character at text[i] (RFC 3629: no overlong forms, no
 * surrogates), 0 when it is none. */
static size_t utf8_len(ss_bytes text, size_t i) {
    const uint8_t *s = text.ptr + i;
    size_t left = text.len - i;

    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xC2 && s[0] <= 0xDF   ? 2
               : (s[0] & 0xF0) == 0xE0        ? 3
               : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4
                                              : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t k = 1; k < n; k++)
        if ((s[k] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return n;
}

ss_place cfg_place_at(const ss_config *config, size_t offset) {
    ss_place place = {1, 1};

    for (size_t i = 0; i < offset && i < config->text.len; i++) {
        if (config->text.ptr[i] == '\n')
            place = (ss_place){place.line + 1, 1};
        else if ((config->text.ptr[i] & 0xC0) != 0x80)
            place.column++;
    }
    return place;
}

static ss_status check_utf8(const ss_config *config, ss_error *reterr) {
    ss_bytes text = ss_bytes_of(config->text.ptr, config->text.len);

    for (size_t i = 0; i < text.len;) {
        size_t n = utf8_len(text, i);
        if (n == 0)
            return ss_fail(reterr, SS_STOP, "SS-CFG-0005",
                           "%s: the byte 0x%02x here is not UTF-8; save the file as UTF-8",
                           ss_config_place(config, cfg_place_at(config, i)), text.ptr[i]);
        i += n;
    }
    return SS_OK;
}

static ss_status read_all(ss_config *config, int fd, ss_error *reterr) {
    for (;;) {
        uint8_t *to = ss_buf_reserve(&config->text, 65536);
        if (to == NULL)
            return ss_fail(reterr, SS_STOP, "SS-SYS-0001",
                           "there is no memory for the configuration file %s", config->path);
        ssize_t n = read(fd, to, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ss_fail_sys(reterr, SS_STOP, "SS-CFG-0001", errno,
                               "the configuration file %s cannot be read", config->path);
        if (n == 0)
            return SS_OK;
        config->text.len += (size_t)n;
        if ((off_t)config->text.len > LARGEST_FILE)
            return ss_fail(reterr, SS_STOP, "SS-CFG-0004",
                           "the configuration file %s is larger than 1 MiB; check that it is "
                           "the right file",
                           config->path);
    }
}

ss_status cfg_read_file(ss_config *config, ss_error *reterr) {
    struct stat st;
    ss_status ret;

    /* O_NONBLOCK: opening a FIFO must not hang a daemon's start. */
    int fd = open(config->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return open_failed(config->path, errno, reterr);
    if (fstat(fd, &st) != 0)
        ret = ss_fail_sys(reterr, SS_STOP, "SS-CFG-0001", errno,
                          "the configuration file %s cannot be looked at", config->path);
    else if (S_ISDIR(st.st_mode))
        ret = ss_fail(reterr, SS_STOP, "SS-CFG-0002",
                      "%s is a directory; name the configuration file in it", config->path);
    else if (!S_ISREG(st.st_mode))
        ret = ss_fail(reterr, SS_STOP, "SS-CFG-0002",
                      "%s is not a regular file; name the configuration file itself", config->path);
    else
        ret = read_all(config, fd, reterr);
    close(fd);
    if (ret == SS_OK && config->text.len == 0)
        ret = ss_fail(reterr, SS_STOP, "SS-CFG-0003",
                      "the configuration file %s is empty; write at least the required keys",
                      config->path);
    if (ret == SS_OK)
        ret = check_utf8(config, reterr);
    return ret;
}
