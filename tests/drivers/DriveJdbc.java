// JDBC: prepared statements (server-prepared from the fifth run on), batches, generated keys, fetch size, savepoints, COPY. Prints what it saw; the test compares two servers.
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.util.Arrays;
import org.postgresql.PGConnection;
import org.postgresql.util.PSQLException;

public class DriveJdbc {
    static Connection c;

    static void show(Object... what) {
        System.out.println(Arrays.deepToString(what));
    }

    static void failing(String sql) throws SQLException {
        try (Statement s = c.createStatement()) {
            s.execute(sql);
            show("no error", sql);
        } catch (PSQLException e) {
            var m = e.getServerErrorMessage();
            show(m.getSQLState(), m.getMessage(), m.getDetail(), m.getConstraint(), m.getTable(), m.getPosition(), m.getRoutine());
        }
    }

    static void rows(PreparedStatement p) throws SQLException {
        try (ResultSet r = p.executeQuery()) {
            int n = r.getMetaData().getColumnCount();
            while (r.next()) {
                Object[] row = new Object[n];
                for (int i = 0; i < n; i++) row[i] = r.getMetaData().getColumnName(i + 1) + "=" + r.getString(i + 1);
                show(row);
            }
        }
    }

    public static void main(String[] args) throws Exception {
        c = DriverManager.getConnection(args[0]);
        show(c.getMetaData().getDatabaseProductName(), c.getMetaData().supportsTransactions());
        Statement s = c.createStatement();
        s.execute("CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, qty bigint DEFAULT 0, price numeric(10,2), at timestamp, ok boolean)");
        PreparedStatement add = c.prepareStatement("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)");
        for (int n = 1; n <= 20; n++) {
            add.setInt(1, n);
            add.setString(2, "n" + n);
            add.setLong(3, n * 1000000000L);
            add.setBigDecimal(4, new BigDecimal("1.5").multiply(BigDecimal.valueOf(n)));
            add.setTimestamp(5, Timestamp.valueOf("2024-02-29 12:30:00"));
            add.setBoolean(6, n % 2 == 0);
            add.addBatch();
        }
        show(Arrays.stream(add.executeBatch()).sum());
        PreparedStatement read = c.prepareStatement("SELECT * FROM items WHERE id = ?");
        for (int n = 1; n <= 8; n++) {
            read.setInt(1, n % 3 + 1);
            rows(read);
        }
        PreparedStatement bump = c.prepareStatement("UPDATE items SET qty = qty + ?, name = ? WHERE id = ?");
        for (int n = 0; n < 8; n++) {
            bump.setLong(1, n);
            bump.setString(2, "bumped " + n);
            bump.setInt(3, n % 2 == 0 ? 2 : 99);
            show(bump.executeUpdate());
        }
        read.setInt(1, 2);
        rows(read);
        PreparedStatement upsert = c.prepareStatement("INSERT INTO items (id, name) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name", Statement.RETURN_GENERATED_KEYS);
        for (int n = 20; n <= 21; n++) {
            upsert.setInt(1, n);
            upsert.setString(2, "up" + n);
            show(upsert.executeUpdate());
            ResultSet keys = upsert.getGeneratedKeys();
            keys.next();
            show(keys.getInt(1), keys.getString(2));
        }
        c.setAutoCommit(false);
        bump.setInt(3, 3);
        show(bump.executeUpdate());
        Savepoint sp = c.setSavepoint();
        failing("INSERT INTO items VALUES (1, 'dup')");
        c.rollback(sp);
        read.setInt(1, 3);
        rows(read);
        c.rollback();
        rows(read);
        show(s.executeUpdate("UPDATE items SET ok = NOT ok WHERE id = 3"));
        c.commit();
        rows(read);
        Statement cursor = c.createStatement();
        cursor.setFetchSize(7);
        ResultSet all = cursor.executeQuery("SELECT id FROM items ORDER BY id");
        int count = 0;
        while (all.next()) count++;
        show(count);
        all.close();
        c.commit();
        c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        rows(read);
        c.commit();
        c.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        c.setAutoCommit(true);
        var copy = c.unwrap(PGConnection.class).getCopyAPI();
        show(copy.copyIn("COPY items (id, name) FROM STDIN", new StringReader("100\tcopied\n101\ttoo\n")));
        StringWriter out = new StringWriter();
        show(copy.copyOut("COPY (SELECT id, name FROM items WHERE id >= 100 ORDER BY id) TO STDOUT", out), out.toString());
        read.setInt(1, 101);
        rows(read);
        show(s.executeUpdate("DELETE FROM items WHERE id = 101"));
        rows(read);
        failing("SELECT nothing FROM items WHERE id = 1");
        failing("UPDATE items SET name = NULL WHERE id = 1");
        failing("UPDATE items SET price = 123456789 WHERE id = 1");
        ResultSet columns = c.getMetaData().getColumns(null, "public", "items", "%");
        while (columns.next()) show(columns.getString("COLUMN_NAME"), columns.getString("TYPE_NAME"));
        s.execute("DROP TABLE items");
        c.close();
    }
}
