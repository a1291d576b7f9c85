"""The thin way: one table is copied, then a change arrives, then a transaction of each kind."""


def test_copied_and_streamed(make_world):
    w = make_world()
    w.src("create table item(id int primary key, name text, price numeric(10,2));"
          "insert into item select i, 'item ' || i, i * 1.5 from generate_series(1, 1000) i")
    w.start()
    w.wait()
    w.assert_same("item")
    w.src("insert into item values (2000, 'new', 7.25)")
    w.src("update item set price = price + 1 where id <= 10")
    w.src("delete from item where id between 20 and 29")
    w.wait()
    w.assert_same("item")
    w.verify()
    assert w.state() == "streaming"
