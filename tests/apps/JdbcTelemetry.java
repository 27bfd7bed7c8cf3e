// Telemetry and stock as a JDBC program writes them: prepared statements, transactions without autocommit, batches (rewritten to several rows by the driver), generated keys.
// Unchanged for Ripen.
//
// Usage: JdbcTelemetry.java prepare | run ROUNDS
import java.sql.*;

public class JdbcTelemetry {
    static final String SCHEMA = """
        CREATE TABLE device (id int PRIMARY KEY, name text NOT NULL, readings bigint NOT NULL DEFAULT 0, last_value double precision, last_at timestamp);
        CREATE TABLE reading (device int NOT NULL REFERENCES device, at timestamp NOT NULL, value double precision NOT NULL, PRIMARY KEY (device, at));
        CREATE TABLE stock (item int PRIMARY KEY, quantity int NOT NULL CHECK (quantity >= 0));
        CREATE TABLE orders (id bigserial PRIMARY KEY, item int NOT NULL REFERENCES stock, quantity int NOT NULL, state text NOT NULL DEFAULT 'new');
        INSERT INTO device SELECT g, 'd' || g FROM generate_series(1, 20) g;
        INSERT INTO stock SELECT g, 1000000 FROM generate_series(1, 10) g""";

    static Connection connect() throws SQLException {
        var url = System.getenv("DATABASE_URL").replaceFirst("postgres://([^@]*)@(.*)", "jdbc:postgresql://$2?user=$1");
        return DriverManager.getConnection(url + "&reWriteBatchedInserts=true");
    }

    static void round(Connection c, PreparedStatement[] s, int turn) throws SQLException {
        int device = turn % 20 + 1, item = turn % 10 + 1;
        var start = Timestamp.valueOf("2026-01-01 00:00:00").getTime() + turn * 1000L;
        for (int n = 0; n < 8; n++) {
            s[0].setInt(1, device);
            s[0].setTimestamp(2, new Timestamp(start + n * 100));
            s[0].setDouble(3, turn + n / 8.0);
            s[0].addBatch();
        }
        s[0].executeBatch();
        s[1].setDouble(1, turn + 7 / 8.0);
        s[1].setTimestamp(2, new Timestamp(start + 700));
        s[1].setInt(3, device);
        s[1].executeUpdate();
        c.commit();

        s[2].setInt(1, item);
        try (var found = s[2].executeQuery()) {
            if (!found.next() || found.getInt(1) < 1) throw new IllegalStateException("no stock");
        }
        s[3].setInt(1, 1);
        s[3].setInt(2, item);
        s[3].executeUpdate();
        s[4].setInt(1, item);
        s[4].executeUpdate();
        long order;
        try (var keys = s[4].getGeneratedKeys()) {
            keys.next();
            order = keys.getLong(1);
        }
        c.commit();

        for (String state : new String[] {"paid", "sent"}) {
            s[5].setString(1, state);
            s[5].setLong(2, order);
            s[5].addBatch();
        }
        s[5].executeBatch();
        c.commit();
        s[6].setLong(1, order);
        try (var found = s[6].executeQuery()) {
            if (!found.next() || !found.getString(1).equals("sent")) throw new IllegalStateException("not sent");
        }
        s[7].setInt(1, device);
        try (var found = s[7].executeQuery()) {
            if (!found.next() || found.getLong(1) < 8) throw new IllegalStateException("readings are lost");
        }
        c.commit();
    }

    public static void main(String[] args) throws Exception {
        try (var c = connect(); var s = c.createStatement()) {
            if (args[0].equals("prepare")) {
                s.execute(SCHEMA);
                return;
            }
            c.setAutoCommit(false);
            PreparedStatement[] all = {
                c.prepareStatement("INSERT INTO reading (device, at, value) VALUES (?, ?, ?)"),
                c.prepareStatement("UPDATE device SET readings = readings + 8, last_value = ?, last_at = ? WHERE id = ?"),
                c.prepareStatement("SELECT quantity FROM stock WHERE item = ? FOR UPDATE"),
                c.prepareStatement("UPDATE stock SET quantity = quantity - ? WHERE item = ?"),
                c.prepareStatement("INSERT INTO orders (item, quantity) VALUES (?, 1)", new String[] {"id"}),
                c.prepareStatement("UPDATE orders SET state = ? WHERE id = ?"),
                c.prepareStatement("SELECT state FROM orders WHERE id = ?"),
                c.prepareStatement("SELECT readings, last_value, last_at FROM device WHERE id = ?"),
            };
            for (int turn = 0; turn < Integer.parseInt(args[1]); turn++) round(c, all, turn);
            try (var r = s.executeQuery("SELECT (SELECT sum(readings) FROM device), (SELECT count(*) FROM reading), (SELECT sum(quantity) FROM stock), (SELECT count(*) FROM orders WHERE state = 'sent')")) {
                r.next();
                System.out.println(r.getLong(1) + " " + r.getLong(2) + " " + r.getLong(3) + " " + r.getLong(4));
            }
            c.commit();
        }
    }
}
