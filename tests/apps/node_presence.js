// Presence, carts and events as a Node service makes them with node-postgres: a pool, statements with parameters, transactions by a client of the pool, batches by several rows of
// VALUES and by unnest. Unchanged for Ripen.
//
// Usage: node_presence.js prepare | run ROUNDS
const { Pool } = require("pg");
const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 4 });

const SCHEMA = `
  CREATE TABLE member (id serial PRIMARY KEY, name text NOT NULL, visits int NOT NULL DEFAULT 0, settings jsonb NOT NULL DEFAULT '{}');
  CREATE TABLE presence (member int PRIMARY KEY REFERENCES member, state text NOT NULL, seen timestamptz NOT NULL DEFAULT now());
  CREATE TABLE line (member int NOT NULL REFERENCES member, product int NOT NULL, quantity int NOT NULL CHECK (quantity > 0), PRIMARY KEY (member, product));
  CREATE TABLE event (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), member int NOT NULL, kind text NOT NULL, at timestamptz NOT NULL DEFAULT now());
  INSERT INTO member (name) SELECT 'm' || g FROM generate_series(1, 20) g;`;

async function transaction(work) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    const result = await work(client);
    await client.query("COMMIT");
    return result;
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  } finally {
    client.release();
  }
}

async function round(turn) {
  const member = (turn % 20) + 1;
  await pool.query("INSERT INTO presence (member, state) VALUES ($1, $2) ON CONFLICT (member) DO UPDATE SET state = excluded.state, seen = now()", [member, turn % 3 ? "here" : "away"]);
  const { rows } = await pool.query({ name: "member", text: "SELECT id, name, visits, settings FROM member WHERE id = $1", values: [member] });
  if (rows[0].name !== `m${member}`) throw new Error("another member");
  await pool.query("UPDATE member SET visits = visits + 1, settings = $2 WHERE id = $1", [member, { theme: turn % 2 ? "dark" : "light" }]);
  await transaction(async (client) => {
    const held = await client.query("SELECT quantity FROM line WHERE member = $1 AND product = $2 FOR UPDATE", [member, turn % 5]);
    if (held.rowCount) await client.query("UPDATE line SET quantity = quantity + 1 WHERE member = $1 AND product = $2", [member, turn % 5]);
    else await client.query("INSERT INTO line (member, product, quantity) VALUES ($1, $2, 1)", [member, turn % 5]);
    await client.query("UPDATE member SET visits = visits + 1 WHERE id = $1", [member]);
  });
  const cart = await pool.query("SELECT product, quantity FROM line WHERE member = $1 ORDER BY product", [member]);
  if (!cart.rowCount) throw new Error("an empty cart");
  await pool.query("INSERT INTO event (member, kind) VALUES ($1, 'view'), ($1, 'click')", [member]);
  const members = [1, 2, 3].map((n) => ((turn + n) % 20) + 1);
  await pool.query("INSERT INTO event (member, kind) SELECT * FROM unnest($1::int[], $2::text[])", [members, members.map(() => "batch")]);
  await pool.query("SELECT m.id, m.name FROM member m WHERE m.id = ANY($1::int[])", [members]);
  if (turn % 10 === 9) await pool.query("DELETE FROM line WHERE member = $1 AND product = $2", [member, turn % 5]);
}

async function main() {
  if (process.argv[2] === "prepare") return void (await pool.query(SCHEMA));
  const rounds = Number(process.argv[3]);
  for (let turn = 0; turn < rounds; turn++) await round(turn);
  const { rows } = await pool.query("SELECT (SELECT sum(visits) FROM member) AS visits, (SELECT count(*) FROM event) AS events, (SELECT sum(quantity) FROM line) AS lines, (SELECT count(*) FROM presence WHERE state = 'here') AS present");
  console.log(JSON.stringify(rows[0]));
}

main()
  .then(() => pool.end())
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
