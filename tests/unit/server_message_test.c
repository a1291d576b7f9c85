/* needs: common */
/* No byte of a value passes from a server's message into ours, however it is quoted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "sidespool/server_message.h"

#include <string.h>

static char text[200];

static const char *cut(const char *message) {
    ss_server_message_cut(message, text, sizeof text);
    return text;
}

static const char *of(const char *sqlstate, const char *message) {
    ss_server_message(sqlstate, message, text, sizeof text);
    return text;
}

static void quotes_are_cut(void **state) {
    (void)state;
    assert_string_equal(cut("syntax error at or near \"secret\""), "syntax error at or near \"..\"");
    assert_string_equal(cut("a \"one\" and \"two\" b"), "a \"..\" b");
    /* The value itself holds quotes, or a newline, or was cut by the server. */
    assert_string_equal(cut("got \"a\" secret \"b\" here"), "got \"..\" here");
    assert_string_equal(cut("got \"se\ncret\" here\nmore"), "got \"..\" here");
    assert_string_equal(cut("got \"secret"), "got \"..\"");
    assert_string_equal(cut("Syntaxfehler bei »secret«"), "Syntaxfehler bei \"..\"");
    assert_string_equal(cut("Fehler bei „se\"cret“ hier"), "Fehler bei \"..\" hier");
    assert_string_equal(cut("nothing quoted\nbut \"here\""), "nothing quoted");
    assert_string_equal(cut(""), "");
}

static void classes_decide(void **state) {
    (void)state;
    static const char *const secrets[][2] = {
        {"22P02", "invalid input syntax for type integer: \"a\"b secret c\"d\""},
        {"22003", "value \"secret\" is out of range for type integer"},
        {"22008", "timestamp cannot be secret"},
        {"22P05", "character with byte sequence 0xse 0xcret in encoding \"UTF8\" has no equivalent"},
        {"P0001", "row secret refused"},
        {"42601", "syntax error at or near \"secret\""},
        {"XX000", "unexpected \"secret\""},
        {"", "unexpected \"secret\""},
    };
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
        if (strstr(of(secrets[i][0], secrets[i][1]), "secret") != NULL || strstr(text, "cret") != NULL)
            fail_msg("%s: %s", secrets[i][0], text);
    assert_string_equal(of("42P01", "relation \"shop.t\" does not exist"), "relation \"shop.t\" does not exist");
    assert_string_equal(of("23505", "duplicate key value violates unique constraint \"t_pkey\"\nDETAIL: x"),
                        "duplicate key value violates unique constraint \"t_pkey\"");
    assert_string_equal(of(NULL, "out of \"secret\" luck"), "out of \"..\" luck");
}

static void lengths_are_kept(void **state) {
    (void)state;
    char small[8];
    ss_server_message_cut("a long message \"x\"", small, sizeof small);
    assert_string_equal(small, "a long ");
    ss_server_message("42P01", "a long message", small, sizeof small);
    assert_string_equal(small, "a long ");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(quotes_are_cut), cmocka_unit_test(classes_decide),
                                       cmocka_unit_test(lengths_are_kept)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
