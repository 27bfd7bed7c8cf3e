"""psycopg 3: CRUD, batches, pipelines, COPY, server-side cursors, binary, errors. Prints what it saw; the test compares two servers."""
import datetime
import decimal
import sys
import uuid

import psycopg
from psycopg.rows import dict_row

url = sys.argv[1]


def show(*what):
    print(*what)


def failing(connection, sql, *args):
    try:
        connection.execute(sql, *args)
    except psycopg.Error as error:
        d = error.diag
        show(type(error).__name__, d.sqlstate, d.message_primary, d.message_detail, d.constraint_name, d.table_name, d.statement_position)
    else:
        show("no error:", sql)


with psycopg.connect(url, autocommit=True) as c:
    show(c.info.parameter_status("server_version"), c.info.parameter_status("client_encoding"))
    c.execute("CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price numeric(10,2), made timestamptz, tags text[], doc jsonb, raw bytea, ref uuid)")
    made = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)
    row = (1, "öne", decimal.Decimal("12.50"), made, ["a", None, "b c"], '{"k": [1, 2]}', b"\x00\xff", uuid.UUID(int=7))
    show(c.execute("INSERT INTO items VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", row).statusmessage)
    for _ in range(8):  # The sixth is prepared on the server.
        seen = c.execute("SELECT * FROM items WHERE id = %s", (1,)).fetchall()
    show(seen)
    show(c.execute("SELECT * FROM items WHERE id = %s", (1,), binary=True).fetchone())
    show(c.execute("SELECT name, price * 2 AS double FROM items WHERE id = %s", (1,)).description)
    with c.cursor(row_factory=dict_row) as cursor:
        show(cursor.execute("SELECT id, name FROM items WHERE id = ANY(%s)", ([1, 2, 3],)).fetchall())

    with c.cursor() as cursor:
        cursor.executemany("INSERT INTO items (id, name) VALUES (%s, %s) RETURNING id", [(n, f"n{n}") for n in range(2, 40)], returning=True)
        ids = []
        while True:
            ids += cursor.fetchall()
            if not cursor.nextset():
                break
        show(len(ids), ids[-1])
    for n in range(10):
        show(c.execute("UPDATE items SET price = coalesce(price, 0) + %s WHERE id = %s", (n, n)).rowcount)
    show(c.execute("SELECT price FROM items WHERE id = 9").fetchone())
    show(c.execute("DELETE FROM items WHERE id = %s RETURNING name", (39,)).fetchall())
    show(c.execute("SELECT * FROM items WHERE id = 39").fetchall())

    with c.pipeline():
        results = [c.execute("UPDATE items SET name = name || '!' WHERE id = %s RETURNING name", (n,)) for n in (2, 3, 99)]
        results.append(c.execute("SELECT count(*) FROM items"))
    show([r.fetchall() for r in results])
    try:
        with c.pipeline():
            c.execute("UPDATE items SET name = 'kept?' WHERE id = 2")
            c.execute("SELECT 1/0")
            c.execute("UPDATE items SET name = 'skipped' WHERE id = 2")
    except psycopg.errors.DivisionByZero as error:
        show("pipeline", error.diag.message_primary)
    show(c.execute("SELECT name FROM items WHERE id = 2").fetchone())

    try:
        with c.transaction():
            c.execute("UPDATE items SET name = 'gone' WHERE id = 3")
            show(c.execute("SELECT name FROM items WHERE id = 3").fetchone(), c.info.transaction_status.name)
            raise RuntimeError("roll back")
    except RuntimeError:
        pass
    with c.transaction():
        c.execute("UPDATE items SET name = 'outer' WHERE id = 3")
        try:
            with c.transaction():
                c.execute("UPDATE items SET name = 'inner' WHERE id = 3")
                c.execute("INSERT INTO items VALUES (1, 'dup')")
        except psycopg.errors.UniqueViolation as error:
            show(error.diag.message_primary, error.diag.message_detail)
    show(c.execute("SELECT name FROM items WHERE id = 3").fetchone(), c.info.transaction_status.name)

    with c.cursor() as cursor:
        with cursor.copy("COPY items (id, name) FROM STDIN") as copy:
            for n in range(100, 400):
                copy.write_row((n, f"copied {n}"))
        show(cursor.rowcount)
        show(c.execute("SELECT name FROM items WHERE id = 399").fetchone())
        with cursor.copy("COPY (SELECT id, name FROM items WHERE id IN (1, 2, 399) ORDER BY id) TO STDOUT") as copy:
            show([bytes(block) for block in copy])
        with cursor.copy("COPY items (id, name) TO STDOUT (FORMAT binary)") as copy:
            show(sum(len(block) for block in copy) > 1000)

    with c.transaction(), c.cursor(name="server_side") as cursor:
        cursor.itersize = 50
        cursor.execute("SELECT id FROM items ORDER BY id")
        show(sum(1 for _ in cursor))

    failing(c, "SELECT nothing FROM items WHERE id = 1")
    failing(c, "INSERT INTO items VALUES (1, 'dup')")
    failing(c, "INSERT INTO items (id) VALUES (5000)")
    failing(c, "UPDATE items SET price = 123456789.5 WHERE id = %s", (1,))
    failing(c, "SELECT * FROM items WHERE id = %s", ("x",))
    notices = []
    c.add_notice_handler(lambda d: notices.append((d.severity, d.message_primary)))
    c.execute("DROP TABLE IF EXISTS nowhere")
    show(notices)
    heard = []
    c.add_notify_handler(lambda note: heard.append((note.channel, note.payload)))
    c.execute("LISTEN news")
    c.execute("NOTIFY news, 'hello'")
    show(heard)
    c.execute("DROP TABLE items")
