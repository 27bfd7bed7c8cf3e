// node-postgres: simple and prepared queries, arrays of rows, transactions, pools, errors, notifications. Prints what it saw; the test compares two servers.
const { Client, Pool } = require("pg");
const url = process.argv[2];

async function failing(client, ...query) {
  try {
    await client.query(...query);
    console.log("no error:", query);
  } catch (e) {
    console.log(e.severity, e.code, e.message, e.detail, e.constraint, e.table, e.position, e.routine);
  }
}

async function main() {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query("CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, qty bigint DEFAULT 0, price numeric, at timestamptz, doc jsonb, raw bytea, tags int[])");
  let r = await client.query("INSERT INTO items VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", [1, "öne", "9007199254740993", "1.230", new Date(1709209800123), { k: [1] }, Buffer.from([0, 255]), [1, null, 3]]);
  console.log(r.command, r.rowCount);
  for (let n = 0; n < 3; n++) console.log((await client.query("SELECT * FROM items WHERE id = $1", [1])).rows);
  const named = { name: "read-item", text: "SELECT id, name, qty FROM items WHERE id = $1" };
  for (const id of [1, 1, 2]) console.log((await client.query({ ...named, values: [id] })).rows);
  console.log((await client.query({ text: "SELECT id, name FROM items WHERE id = $1", values: [1], rowMode: "array" })).fields.map((f) => [f.name, f.dataTypeID, f.dataTypeSize]));
  for (let id = 2; id < 30; id++) await client.query({ name: "add", text: "INSERT INTO items (id, name) VALUES ($1, $2)", values: [id, "n" + id] });
  r = await client.query("UPDATE items SET qty = qty + 5, name = upper(name) WHERE id = $1 RETURNING *", [2]);
  console.log(r.rowCount, r.rows);
  const counts = await Promise.all([2, 3, 99].map((id) => client.query("UPDATE items SET qty = qty + 1 WHERE id = $1", [id])));
  console.log(counts.map((c) => c.rowCount));
  console.log((await client.query("SELECT id, qty FROM items WHERE id = ANY($1) ORDER BY id", [[1, 2, 3]])).rows);
  console.log((await client.query("SELECT 1 AS a; SELECT name FROM items WHERE id = 2; UPDATE items SET qty = 50 WHERE id = 2")).map((x) => [x.command, x.rowCount, x.rows]));
  console.log((await client.query("SELECT qty FROM items WHERE id = 2")).rows);
  await client.query("BEGIN");
  await client.query("UPDATE items SET name = 'gone' WHERE id = $1", [3]);
  await failing(client, "INSERT INTO items VALUES (1, 'dup')");
  await failing(client, "SELECT 1");
  await client.query("ROLLBACK");
  console.log((await client.query({ ...named, values: [3] })).rows);
  await failing(client, "SELECT nothing FROM items WHERE id = 1");
  await failing(client, "SELECT * FROM items WHERE id = $1", ["x"]);
  await failing(client, "UPDATE items SET name = $1 WHERE id = 1", [null]);
  console.log((await client.query("DELETE FROM items WHERE id = $1", [29])).rowCount, (await client.query({ ...named, values: [29] })).rows);
  const heard = new Promise((resolve) => client.on("notification", (n) => resolve([n.channel, n.payload])));
  await client.query("LISTEN news");
  await client.query("NOTIFY news, 'hello'");
  console.log(await heard);
  const pool = new Pool({ connectionString: url, max: 4 });
  await Promise.all(Array.from({ length: 60 }, (_, n) => pool.query("UPDATE items SET qty = qty + 1 WHERE id = $1", [10 + (n % 3)])));
  console.log((await client.query("SELECT qty FROM items WHERE id IN (10, 11, 12) ORDER BY id")).rows);
  await pool.end();
  await client.query("DROP TABLE items");
  await client.end();
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
