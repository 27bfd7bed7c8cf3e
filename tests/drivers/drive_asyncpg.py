"""asyncpg: its own binary codecs, prepared statements, executemany, COPY, cursors, pools. Prints what it saw; the test compares two servers."""
import asyncio
import datetime
import decimal
import io
import sys

import asyncpg

url = sys.argv[1]


async def failing(connection, sql, *args):
    try:
        await connection.fetch(sql, *args)
    except asyncpg.PostgresError as error:
        print(type(error).__name__, error.sqlstate, error.message, error.detail, error.constraint_name, error.position)
    else:
        print("no error:", sql)


async def main():
    c = await asyncpg.connect(url)
    print(c.get_server_version().major >= 13, c.get_settings().client_encoding)
    await c.execute("CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, qty bigint DEFAULT 0, price numeric, at timestamptz, span interval, tags text[], f float8)")
    at = datetime.datetime(2024, 2, 29, 12, 30, 0, 123456, tzinfo=datetime.timezone.utc)
    print(await c.execute("INSERT INTO items VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", 1, "öne", 2**40, decimal.Decimal("1.230"), at, datetime.timedelta(days=3, seconds=5), ["a", None], 0.1))
    await c.executemany("INSERT INTO items (id, name) VALUES ($1, $2)", [(n, f"n{n}") for n in range(2, 60)])
    read = await c.prepare("SELECT * FROM items WHERE id = $1")
    print([(a.name, a.type.name) for a in read.get_attributes()], [p.name for p in read.get_parameters()])
    for n in (1, 1, 2, 59, 99):
        print(await read.fetchrow(n))
    print(await c.fetchval("SELECT qty + 1 FROM items WHERE id = $1", 1))
    print([tuple(r) for r in await c.fetch("SELECT id, name FROM items WHERE id = ANY($1::int[]) ORDER BY id", [3, 1, 77, 2])])
    for n in range(5):
        print(await c.execute("UPDATE items SET qty = qty + $1 WHERE id = $2", n, 2))
    print(await c.fetch("UPDATE items SET qty = qty * 2, name = $2 WHERE id = $1 RETURNING id, qty, name", 2, "zwei"))
    print(await c.fetch("INSERT INTO items (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET name = excluded.name || '+' RETURNING *", 2, "deux"))
    print(await c.execute("DELETE FROM items WHERE id = $1", 59), await read.fetchrow(59))

    try:
        async with c.transaction():
            await c.execute("UPDATE items SET qty = -1 WHERE id = 1")
            print(await c.fetchval("SELECT qty FROM items WHERE id = 1"))
            raise KeyError
    except KeyError:
        pass
    async with c.transaction():
        await c.execute("UPDATE items SET qty = 7 WHERE id = 1")
        try:
            async with c.transaction():
                await c.execute("INSERT INTO items VALUES (1, 'dup')")
        except asyncpg.UniqueViolationError as error:
            print(error.message, error.detail)
    print(await c.fetchval("SELECT qty FROM items WHERE id = 1"))
    async with c.transaction(isolation="repeatable_read"):
        print(await c.fetchval("SELECT qty FROM items WHERE id = 1"))

    print(await c.copy_records_to_table("items", records=[(n, f"c{n}") for n in range(1000, 1500)], columns=["id", "name"]))
    print(await c.fetchval("SELECT name FROM items WHERE id = 1499"))
    out = io.BytesIO()
    print(await c.copy_from_query("SELECT id, name FROM items WHERE id IN (1, 2, 1000) ORDER BY id", output=out, format="csv"))
    print(out.getvalue())
    async with c.transaction():
        print(sum([1 async for _ in c.cursor("SELECT id FROM items ORDER BY id", prefetch=64)]))

    await failing(c, "SELECT nothing FROM items WHERE id = $1", 1)
    await failing(c, "INSERT INTO items VALUES (1, 'dup')")
    await failing(c, "SELECT 1 / (id - 1) FROM items WHERE id = $1", 1)
    await failing(c, "UPDATE items SET name = NULL WHERE id = $1", 1)

    pool = await asyncpg.create_pool(url, min_size=3, max_size=3)

    async def bump(n):
        async with pool.acquire() as p:
            await p.execute("UPDATE items SET qty = qty + 1 WHERE id = $1", 3 + n % 4)

    await asyncio.gather(*(bump(n) for n in range(80)))
    print([r["qty"] for r in await c.fetch("SELECT qty FROM items WHERE id IN (3, 4, 5, 6) ORDER BY id")])
    await pool.close()
    await c.execute("SET TimeZone = 'Asia/Tokyo'")
    print(await c.fetchval("SELECT at::text FROM items WHERE id = 1"))
    await c.execute("ALTER TABLE items ADD COLUMN extra int DEFAULT 5")
    print(await c.fetchval("SELECT extra FROM items WHERE id = 1"))
    try:
        print((await read.fetchrow(1))["name"])
    except asyncpg.PostgresError as error:
        print(error.message)
    await c.execute("DROP TABLE items")
    await c.close()


asyncio.run(main())
