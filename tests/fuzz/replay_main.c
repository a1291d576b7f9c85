/* The main of a target without a fuzzer: feeds it each file of the named folders, and each named
 * file. That is how the corpus is replayed by ctest under any compiler, and how a crash is looked
 * at in a debugger. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *current; /* for the signal handler */
static size_t done;

static void name_input(int signal_number) {
    (void)signal_number;
    if (current != NULL) {
        (void)!write(STDERR_FILENO, "input: ", 7);
        (void)!write(STDERR_FILENO, current, strlen(current));
        (void)!write(STDERR_FILENO, "\n", 1);
    }
}

static bool feed_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return false;
    }
    ss_buf all;
    ss_buf_init(&all);
    uint8_t *to;
    while ((to = ss_buf_reserve(&all, 65536)) != NULL) {
        size_t n = fread(to, 1, 65536, file);
        if (n == 0)
            break;
        all.len += n;
    }
    bool ok = !all.bad && ferror(file) == 0;
    (void)fclose(file);
    if (ok) {
        uint8_t *exact = fuzz_exact(ss_bytes_of(all.ptr, all.len));
        current = path;
        (void)LLVMFuzzerTestOneInput(exact, all.len);
        current = NULL;
        free(exact);
        done++;
    } else {
        fprintf(stderr, "%s: cannot be read\n", path);
    }
    ss_buf_done(&all);
    return ok;
}

static int not_hidden(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

static bool feed(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0) {
        perror(path);
        return false;
    }
    if (!S_ISDIR(st.st_mode))
        return feed_file(path);
    struct dirent **entries;
    int count = scandir(path, &entries, not_hidden, alphasort);
    bool ok = count >= 0;
    if (!ok)
        perror(path);
    for (int i = 0; i < count; i++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name);
        ok = feed_file(name) && ok;
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    return ok;
}

int main(int argc, char **argv) {
    bool ok = true;

    if (argc < 2) {
        fprintf(stderr, "usage: %s FOLDER-OR-FILE…\n", argv[0]);
        return SS_EXIT_USAGE;
    }
    /* Set back by itself (SA_RESETHAND), so that the signal then ends the process as it would have. */
    struct sigaction action = {.sa_handler = name_input, .sa_flags = (int)SA_RESETHAND};
    (void)sigaction(SIGABRT, &action, NULL);
    struct sigaction before; /* a sanitizer's own handler says more */
    if (sigaction(SIGSEGV, NULL, &before) == 0 && before.sa_handler == SIG_DFL)
        (void)sigaction(SIGSEGV, &action, NULL);
    for (int i = 1; i < argc; i++)
        ok = feed(argv[i]) && ok;
    printf("%zu inputs\n", done);
    return ok && done > 0 ? 0 : 1;
}
