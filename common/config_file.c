/* The configuration file as bytes: everything that can be wrong with it before YAML comes into
 * play. */
#include "common/config_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGEST_FILE ((off_t)1 << 20)

static ss_status not_regular(const ss_config *config, ss_error *reterr) {
    return ss_fail(reterr, SS_STOP, "SS-CFG-0002",
                   "the configuration file %s is not a regular file; name the configuration file itself", config->shown);
}

static ss_status open_failed(const ss_config *config, int err, ss_error *reterr) {
    if (err == ENOENT)
        return ss_fail(reterr, SS_STOP, "SS-CFG-0001",
                       "there is no configuration file %s; check the path given with --config", config->shown);
    if (err == EACCES)
        return ss_fail(reterr, SS_STOP, "SS-CFG-0001",
                       "the configuration file %s may not be read by this user (uid %u); check its owner and mode and "
                       "those of its folders",
                       config->shown, (unsigned)geteuid());
    if (err == ENXIO) /* a socket */
        return not_regular(config, reterr);
    /* Either the name is wrong, or the system is in trouble, which may be over at the next start. */
    bool name = err == ENOTDIR || err == ELOOP || err == ENAMETOOLONG || err == EPERM;
    return ss_fail_sys(reterr, name ? SS_STOP : SS_RETRY, "SS-CFG-0001", err,
                       "the configuration file %s cannot be opened; check the path given with --config", config->shown);
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

uint8_t cfg_byte_at(const ss_config *config, ss_place place) {
    ss_place at = {1, 1};
    size_t i = 0;

    for (; i < config->text.len && (at.line < place.line || (at.line == place.line && at.column < place.column)); i++) {
        if (config->text.ptr[i] == '\n')
            at = (ss_place){at.line + 1, 1};
        else if ((config->text.ptr[i] & 0xC0) != 0x80)
            at.column++;
    }
    return i < config->text.len ? config->text.ptr[i] : '\n';
}

static ss_status check_utf8(const ss_config *config, ss_error *reterr) {
    ss_bytes text = ss_bytes_of(config->text.ptr, config->text.len);

    for (size_t i = 0; i < text.len;) {
        size_t n = ss_utf8_len(text.ptr + i, text.len - i);
        if (text.ptr[i] == '\0')
            return ss_fail(reterr, SS_STOP, "SS-CFG-0005",
                           "%s: a NUL byte stands here; check that it is the right file, and save it as UTF-8 text",
                           ss_config_place(config, cfg_place_at(config, i)));
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
            return ss_fail(reterr, SS_RETRY, "SS-SYS-0001",
                           "there is no memory for the configuration file %s", config->shown);
        ssize_t n = read(fd, to, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ss_fail_sys(reterr, SS_RETRY, "SS-CFG-0001", errno,
                               "the configuration file %s cannot be read", config->shown);
        if (n == 0)
            return SS_OK;
        config->text.len += (size_t)n;
        if ((off_t)config->text.len > LARGEST_FILE)
            return ss_fail(reterr, SS_STOP, "SS-CFG-0004",
                           "the configuration file %s is larger than 1 MiB; check that it is "
                           "the right file",
                           config->shown);
    }
}

ss_status cfg_read_file(ss_config *config, ss_error *reterr) {
    struct stat st;
    ss_status ret;

    /* O_NONBLOCK: opening a FIFO must not hang a daemon's start. */
    int fd = open(config->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return open_failed(config, errno, reterr);
    if (fstat(fd, &st) != 0)
        ret = ss_fail_sys(reterr, SS_RETRY, "SS-CFG-0001", errno,
                          "the configuration file %s cannot be looked at", config->shown);
    else if (S_ISDIR(st.st_mode))
        ret = ss_fail(reterr, SS_STOP, "SS-CFG-0002",
                      "the configuration file %s is a directory; name the configuration file in it", config->shown);
    else if (!S_ISREG(st.st_mode))
        ret = ss_fail(reterr, SS_STOP, "SS-CFG-0002",
                      "the configuration file %s is not a regular file; name the configuration file itself", config->shown);
    else
        ret = read_all(config, fd, reterr);
    close(fd);
    /* The mark that some editors put first is no part of the text; libyaml would count it as a column. */
    if (ret == SS_OK && config->text.len >= 3 && memcmp(config->text.ptr, "\xEF\xBB\xBF", 3) == 0) {
        config->text.len -= 3;
        memmove(config->text.ptr, config->text.ptr + 3, config->text.len);
    }
    if (ret == SS_OK)
        ret = check_utf8(config, reterr);
    return ret;
}
