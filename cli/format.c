/* Numbers as people read them. Rounding is always down for what has been reached, so that nothing
 * looks done too early. */
#include "cli/cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

ss_text ss_format_duration(double seconds) {
    ss_text out;
    if (!(seconds >= 0) || seconds > 1e11) {
        (void)snprintf(out.text, sizeof(out.text), "-");
        return out;
    }
    long long whole = (long long)seconds;
    if (seconds > 0 && seconds < 0.1)
        (void)snprintf(out.text, sizeof(out.text), "<0.1 s");
    else if (whole < 10 && seconds > 0)
        (void)snprintf(out.text, sizeof(out.text), "%.1f s", floor(seconds * 10) / 10);
    else if (whole < 60)
        (void)snprintf(out.text, sizeof(out.text), "%lld s", whole);
    else if (whole < 3600)
        (void)snprintf(out.text, sizeof(out.text), "%lld min %lld s", whole / 60, whole % 60);
    else if (whole < 86400)
        (void)snprintf(out.text, sizeof(out.text), "%lld h %lld min", whole / 3600,
                       whole % 3600 / 60);
    else
        (void)snprintf(out.text, sizeof(out.text), "%lld d %lld h", whole / 86400,
                       whole % 86400 / 3600);
    return out;
}

ss_text ss_format_bytes(double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    ss_text out;
    size_t unit = 0;
    if (!(bytes >= 0))
        bytes = 0;
    while (bytes >= 1024 && unit < 5) {
        bytes /= 1024;
        unit++;
    }
    if (unit == 0 || bytes >= 100)
        (void)snprintf(out.text, sizeof(out.text), "%.0f %s", floor(bytes), units[unit]);
    else
        (void)snprintf(out.text, sizeof(out.text), "%.1f %s", floor(bytes * 10) / 10, units[unit]);
    return out;
}

ss_text ss_format_count(int64_t count) {
    ss_text out;
    char digits[32];
    int len = snprintf(digits, sizeof(digits), "%lld", (long long)count);
    size_t used = 0;
    for (int i = 0; i < len; i++) {
        out.text[used++] = digits[i];
        int left = len - 1 - i;
        if (left > 0 && left % 3 == 0 && digits[i] != '-')
            out.text[used++] = ',';
    }
    out.text[used] = '\0';
    return out;
}

ss_text ss_format_short(double count) {
    static const char *const units[] = {"", "k", "M", "G", "T"};
    ss_text out;
    size_t unit = 0;
    if (!(count >= 0))
        count = 0;
    while (count >= 1000 && unit < 4) {
        count /= 1000;
        unit++;
    }
    if (unit == 0 || count >= 10)
        (void)snprintf(out.text, sizeof(out.text), "%.0f%s", floor(count), units[unit]);
    else
        (void)snprintf(out.text, sizeof(out.text), "%.1f%s", floor(count * 10) / 10, units[unit]);
    return out;
}

ss_text ss_format_time(int64_t us, int64_t now_us) {
    ss_text out;
    struct tm at, now;
    time_t seconds = (time_t)(us / 1000000), today = (time_t)(now_us / 1000000);
    (void)snprintf(out.text, sizeof(out.text), "-");
    if (us <= 0 || !localtime_r(&seconds, &at) || !localtime_r(&today, &now))
        return out;
    bool same = at.tm_year == now.tm_year && at.tm_yday == now.tm_yday;
    if (strftime(out.text, sizeof(out.text), same ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &at) == 0)
        (void)snprintf(out.text, sizeof(out.text), "-");
    return out;
}

bool ss_parse_seconds(const char *text, double *ret) {
    static const struct {
        const char *unit;
        double seconds;
    } units[] = {{"", 1},     {"ms", 0.001}, {"s", 1},    {"m", 60},
                 {"min", 60}, {"h", 3600},   {"d", 86400}};
    size_t digits = strspn(text, "0123456789.");
    char *end;
    if (digits == 0 || digits > 15)
        return false;
    double number = strtod(text, &end);
    if (end != text + digits)
        return false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcmp(end, units[i].unit) == 0) {
            *ret = number * units[i].seconds;
            return *ret <= 1e8; /* three years; what the applier would wait at most */
        }
    return false;
}
