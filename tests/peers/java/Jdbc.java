import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.sql.BatchUpdateException;
import java.sql.Blob;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;

/**
 * What a JDBC driver does with a database: java Jdbc.java URL USER CASE..., the password in JDBC_PASSWORD.
 *
 * Each case has a connection of its own and prints one line: "CASE ok", or "CASE failed" and why. The cases that need
 * somebody outside print what they wait for and go on at the next line of standard input.
 */
public class Jdbc {
    interface Case {
        void run(Connection connection) throws Exception;
    }

    static final int LONG = 20_000_000; // longer than one packet of MySQL (16 MiB)
    static final int LONGER = 33_554_430; // two packets of MySQL, and the end of the row in a third
    static final int ROWS = 1000;
    static final BufferedReader INPUT = new BufferedReader(new InputStreamReader(System.in));

    static boolean postgres;
    static String url;
    static Properties login = new Properties();

    static final Map<String, Case> CASES = new TreeMap<>(Map.ofEntries(
            Map.entry("login", Jdbc::login), Map.entry("prepared", Jdbc::prepared),
            Map.entry("batch", Jdbc::batch), Map.entry("batch-error", Jdbc::batchError),
            Map.entry("cursor", Jdbc::cursor), Map.entry("errors", Jdbc::errors),
            Map.entry("types", Jdbc::types), Map.entry("nulls", Jdbc::nulls),
            Map.entry("results", Jdbc::results), Map.entry("long-rows", Jdbc::longRows),
            Map.entry("long-values", Jdbc::longValues), Map.entry("blob", Jdbc::blob),
            Map.entry("keys", Jdbc::keys), Map.entry("savepoint", Jdbc::savepoint),
            Map.entry("metadata", Jdbc::metadata), Map.entry("cancel", Jdbc::cancel),
            Map.entry("timeout", Jdbc::timeout), Map.entry("block", Jdbc::block),
            Map.entry("drop-idle", Jdbc::dropIdle), Map.entry("drop-running", Jdbc::dropRunning)));

    public static void main(String[] words) {
        url = words[0];
        postgres = url.startsWith("jdbc:postgresql:");
        login.setProperty("user", words[1]);
        login.setProperty("password", System.getenv("JDBC_PASSWORD"));
        for (String name : Arrays.asList(words).subList(2, words.length)) {
            try (Connection connection = open()) {
                CASES.get(name).run(connection);
                say(name + " ok");
            } catch (Exception | AssertionError error) {
                say(name + " failed: " + error.toString().replace('\n', ' '));
            }
        }
    }

    static Connection open() throws SQLException {
        return DriverManager.getConnection(url, login);
    }

    static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    static void equal(Object found, Object wanted) {
        if (!String.valueOf(found).equals(String.valueOf(wanted))) {
            throw new AssertionError("got <" + found + ">, not <" + wanted + ">");
        }
    }

    static String ask(Connection connection, String text) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(text)) {
            rows.next();
            return rows.getString(rows.getMetaData().getColumnCount());
        }
    }

    static void run(Connection connection, String... texts) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            for (String text : texts) {
                statement.execute(text);
            }
        }
    }

    static String state(SQLException error) { // what the protocol told of an error
        if (postgres) {
            return error.getSQLState();
        }
        Throwable first = error; // MariaDB's driver wraps the error that ends a connection, as 08000 without a number
        while (first.getCause() instanceof SQLException && ((SQLException) first).getErrorCode() == 0) {
            first = first.getCause();
        }
        SQLException told = (SQLException) first;
        return told.getErrorCode() + " " + told.getSQLState();
    }

    static void disconnected(Connection connection, String text) throws SQLException {
        try {
            run(connection, text);
        } catch (SQLException error) {
            equal(state(error), postgres ? "57P01" : "1927 70100");
            equal(error.getMessage().contains("You have been disconnected"), true);
            return;
        }
        throw new AssertionError("no error");
    }

    static String refused(Case call, Connection connection) throws Exception {
        try {
            call.run(connection);
        } catch (SQLException error) {
            return state(error);
        }
        return "no error";
    }

    static String number(boolean own) { // a column that numbers its rows
        return (own ? "id " : "") + (postgres ? "serial primary key" : "int auto_increment primary key");
    }

    // ---------------------------------------------------------------- what passes

    static void login(Connection connection) throws SQLException {
        equal(ask(connection, "select current_user" + (postgres ? "" : "()")), postgres ? "app" : "app@%");
        if (postgres) { // the target's leg is TLS too
            equal(ask(connection, "select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "t");
        } else {
            equal(ask(connection, "show session status like 'Ssl_version'").startsWith("TLSv1."), true);
        }
    }

    static void prepared(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("select ? + 1, 'switched'")) {
            for (int number = 0; number < 20; number++) {
                statement.setInt(1, number);
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    equal(rows.getInt(1), number + 1);
                }
            }
            String here = "select count(*) from pg_prepared_statements where statement like '%switched%'";
            equal(ask(connection, postgres ? here : "show session status like 'Com_stmt_execute'"), postgres ? 1 : 20);
        }
        equal(ask(connection, "select 'still here'"), "still here");
    }

    static void batch(Connection connection) throws SQLException {
        run(connection, "create temporary table batched (a int, b varchar(20))");
        try (PreparedStatement statement = connection.prepareStatement("insert into batched values (?, ?)")) {
            for (int number = 0; number < ROWS; number++) {
                statement.setInt(1, number);
                statement.setString(2, "row " + number);
                statement.addBatch();
            }
            equal(Arrays.stream(statement.executeBatch()).filter(count -> count == 1).count(), ROWS);
        }
        equal(ask(connection, "select sum(a) from batched"), ROWS * (ROWS - 1) / 2);
        try (Statement statement = connection.createStatement()) {
            statement.addBatch("update batched set a = 0");
            statement.addBatch("delete from batched where b = 'row 7'");
            equal(Arrays.toString(statement.executeBatch()), "[" + ROWS + ", 1]");
        }
    }

    static void batchError(Connection connection) throws SQLException {
        run(connection, "create temporary table unique_ones (a int primary key)");
        connection.setAutoCommit(false);
        try (PreparedStatement statement = connection.prepareStatement("insert into unique_ones values (?)")) {
            for (int number : List.of(1, 2, 1, 3)) {
                statement.setInt(1, number);
                statement.addBatch();
            }
            statement.executeBatch();
            throw new AssertionError("a key was taken twice");
        } catch (BatchUpdateException error) {
            equal(error.getSQLState(), postgres ? "23505" : "23000");
        }
        connection.rollback();
        equal(ask(connection, "select count(*) from unique_ones"), 0);
    }

    static void cursor(Connection connection) throws SQLException {
        String series = postgres ? "select generate_series(1, 1000)" : "select seq from seq_1_to_1000";
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(7);
            int seen = 0;
            try (ResultSet rows = statement.executeQuery(series)) {
                while (rows.next()) {
                    equal(rows.getInt(1), ++seen);
                }
            }
            equal(seen, ROWS);
            try (ResultSet rows = statement.executeQuery(series)) { // left in the middle
                rows.next();
            }
        }
        equal(ask(connection, "select 8"), 8);
        connection.commit();
    }

    static void errors(Connection connection) throws Exception {
        run(connection, "create temporary table one_key (a int primary key)", "insert into one_key values (1)");
        Map<String, String> wanted = new TreeMap<>(Map.of(
                "selekt 1", postgres ? "42601" : "1064 42000",
                "select * from nowhere_at_all", postgres ? "42P01" : "1146 42S02",
                "insert into one_key values (1)", postgres ? "23505" : "1062 23000"));
        for (Map.Entry<String, String> one : wanted.entrySet()) {
            equal(refused(with -> run(with, one.getKey()), connection), one.getValue());
            equal(refused(with -> {
                try (PreparedStatement statement = with.prepareStatement(one.getKey())) {
                    statement.execute();
                }
            }, connection), one.getValue());
        }
        equal(ask(connection, "select count(*) from one_key"), 1);
    }

    static void types(Connection connection) throws SQLException {
        String made = postgres
                ? "a int, b bigint, c numeric(20, 4), d double precision, e boolean, f text, g bytea, h timestamp"
                : "a int, b bigint, c decimal(20, 4), d double, e boolean, f text character set utf8mb4, g blob, h datetime(6)";
        run(connection, "create temporary table typed (" + made + ")");
        byte[] bytes = {0, 1, (byte) 0xFE, (byte) 0xFF, '\'', '\\'};
        java.sql.Timestamp time = java.sql.Timestamp.valueOf("2026-02-28 23:59:59.123456");
        String values = "values (?, ?, ?, ?, ?, ?, ?, ?)";
        try (PreparedStatement statement = connection.prepareStatement("insert into typed " + values)) {
            for (int round = 0; round < 10; round++) { // before and after the driver changes to binary
                statement.setInt(1, Integer.MIN_VALUE);
                statement.setLong(2, Long.MAX_VALUE);
                statement.setBigDecimal(3, new BigDecimal("-1234567890.1234"));
                statement.setDouble(4, Math.PI);
                statement.setBoolean(5, true);
                statement.setString(6, "ä'\"\\ \uD83D\uDC18");
                statement.setBytes(7, bytes);
                statement.setTimestamp(8, time);
                equal(statement.executeUpdate(), 1);
            }
        }
        try (PreparedStatement statement = connection.prepareStatement("select * from typed where a = ?")) {
            statement.setInt(1, Integer.MIN_VALUE);
            ResultSet rows = statement.executeQuery();
            int seen = 0;
            for (; rows.next(); seen++) {
                equal(rows.getInt(1) + " " + rows.getLong(2), Integer.MIN_VALUE + " " + Long.MAX_VALUE);
                equal(rows.getBigDecimal(3) + " " + rows.getDouble(4), "-1234567890.1234 " + Math.PI);
                equal(rows.getBoolean(5) + " " + rows.getString(6), "true ä'\"\\ \uD83D\uDC18");
                equal(Arrays.equals(rows.getBytes(7), bytes) + " " + rows.getTimestamp(8), "true " + time);
            }
            equal(seen, 10);
        }
    }

    static void nulls(Connection connection) throws SQLException {
        run(connection, "create temporary table holes (a int, b varchar(9), c " + (postgres ? "bytea" : "blob") + ")");
        try (PreparedStatement statement = connection.prepareStatement("insert into holes values (?, ?, ?)")) {
            for (int round = 0; round < 10; round++) {
                statement.setNull(1, Types.INTEGER);
                statement.setNull(2, Types.VARCHAR);
                statement.setNull(3, postgres ? Types.BINARY : Types.BLOB);
                statement.executeUpdate();
                statement.setInt(1, round);
                statement.setString(2, "");
                statement.setBytes(3, new byte[0]);
                statement.executeUpdate();
            }
        }
        equal(ask(connection, "select count(*) from holes where a is null and b is null and c is null"), 10);
        equal(ask(connection, "select count(*) from holes where a is not null and b = '' and length(c) = 0"), 10);
    }

    static void results(Connection connection) throws SQLException {
        String texts = "create temporary table several (a int); insert into several values (1), (2), (3);"
                + " select a from several; update several set a = a + 1; select 9, 8";
        StringBuilder seen = new StringBuilder();
        try (Statement statement = connection.createStatement()) {
            boolean rows = statement.execute(texts);
            while (rows || statement.getUpdateCount() != -1) {
                int count = statement.getUpdateCount();
                for (ResultSet result = rows ? statement.getResultSet() : null; result != null && result.next();) {
                    seen.append(result.getString(1)).append(',');
                }
                seen.append(rows ? "rows;" : count + ";");
                rows = statement.getMoreResults();
            }
        }
        equal(seen, "0;3;1,2,3,rows;3;9,rows;");
    }

    static void longRows(Connection connection) throws SQLException {
        String text = "select repeat('a', " + LONG + "), 'x' union all select repeat('b', " + LONGER + "), 'y'"
                + " union all select repeat('c', 16777211), 'z' union all select 'short', 'w'";
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(1); // no result is held whole
            connection.setAutoCommit(false);
            StringBuilder seen = new StringBuilder();
            for (ResultSet rows = statement.executeQuery(text); rows.next();) {
                seen.append(rows.getString(1).length()).append(rows.getString(2)).append(' ');
            }
            equal(seen, LONG + "x " + LONGER + "y 16777211z 5w ");
        }
    }

    static void longValues(Connection connection) throws SQLException {
        String text = "v".repeat(LONG);
        try (PreparedStatement statement = connection.prepareStatement("select length(?), length(?)")) {
            statement.setString(1, text);
            statement.setBinaryStream(2, new ByteArrayInputStream(new byte[LONG]), LONG);
            ResultSet rows = statement.executeQuery();
            rows.next();
            equal(rows.getString(1) + " " + rows.getString(2), LONG + " " + LONG);
        }
        equal(ask(connection, "select length('" + text + "')"), LONG);
    }

    static void blob(Connection connection) throws SQLException { // PostgreSQL: large objects by function calls
        connection.setAutoCommit(false);
        run(connection, "create temporary table held (a " + (postgres ? "oid" : "longblob") + ")");
        byte[] bytes = new byte[300_000];
        Arrays.fill(bytes, (byte) 7);
        try (PreparedStatement statement = connection.prepareStatement("insert into held values (?)")) {
            statement.setBlob(1, new ByteArrayInputStream(bytes));
            statement.executeUpdate();
        }
        try (Statement statement = connection.createStatement()) {
            ResultSet rows = statement.executeQuery("select a from held");
            rows.next();
            Blob blob = rows.getBlob(1);
            equal(Arrays.equals(blob.getBytes(1, (int) blob.length()), bytes), true);
        }
        connection.commit();
    }

    static void keys(Connection connection) throws SQLException {
        run(connection, "create temporary table numbered (" + number(true) + ", b varchar(9))");
        String text = "insert into numbered (b) values ('x'), ('y')";
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate(text, Statement.RETURN_GENERATED_KEYS);
            ResultSet rows = statement.getGeneratedKeys();
            rows.next();
            equal(rows.getInt(1), 1);
        }
    }

    static void savepoint(Connection connection) throws Exception {
        run(connection, "create temporary table saved (a int primary key)");
        connection.setAutoCommit(false);
        run(connection, "insert into saved values (1)");
        java.sql.Savepoint kept = connection.setSavepoint();
        equal(refused(with -> run(with, "insert into saved values (1)"), connection), postgres ? "23505" : "1062 23000");
        if (postgres) {
            equal(refused(with -> run(with, "select 1"), connection), "25P02");
        }
        connection.rollback(kept);
        run(connection, "insert into saved values (2)");
        connection.commit();
        equal(ask(connection, "select sum(a) from saved"), 3);
    }

    static void metadata(Connection connection) throws SQLException {
        run(connection, "create table if not exists described (" + number(true) + ", b varchar(9))");
        StringBuilder seen = new StringBuilder();
        String catalog = postgres ? null : connection.getCatalog();
        for (ResultSet rows = connection.getMetaData().getColumns(catalog, null, "described", null); rows.next();) {
            seen.append(rows.getString("COLUMN_NAME")).append(' ');
        }
        equal(seen, "id b ");
        equal(connection.getMetaData().getDatabaseProductVersion().isEmpty(), false);
        equal(connection.isValid(5), true);
    }

    // ---------------------------------------------------------------- what is stopped

    static String slow(String mark) {
        return "select " + (postgres ? "pg_sleep(20)" : "sleep(20)") + ", '" + mark + "'";
    }

    static void cancel(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            Thread other = new Thread(() -> {
                try (Connection watching = open()) {
                    String running = postgres ? "select count(*) from pg_stat_activity where query like '%jdbc can' || 'cel%'"
                            : "select count(*) from information_schema.processlist where info like concat('%jdbc can', 'cel%')";
                    while (ask(watching, running).equals("0")) {
                        Thread.onSpinWait();
                    }
                    statement.cancel();
                } catch (SQLException error) {
                    say("not cancelled: " + error);
                }
            });
            other.start();
            equal(refused(with -> statement.execute(slow("jdbc cancel")), connection), postgres ? "57014" : "1317 70100");
            other.join();
        }
        equal(ask(connection, "select 5"), 5);
    }

    static void timeout(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            equal(refused(with -> statement.execute(slow("jdbc timeout")), connection), postgres ? "57014" : "1969 70100");
        }
        equal(ask(connection, "select 5"), 5);
    }

    static void waitFor(String what) throws Exception {
        say(what);
        INPUT.readLine();
    }

    static void block(Connection connection) throws Exception {
        run(connection, "create temporary table kept (a int)");
        connection.setAutoCommit(false);
        try (PreparedStatement statement = connection.prepareStatement("insert into kept values (?)")) {
            for (int number = 0; number < 10; number++) { // prepared at the server by now
                statement.setInt(1, number);
                statement.executeUpdate();
            }
            waitFor("block me");
            for (int round = 0; round < 3; round++) {
                equal(refused(with -> statement.executeUpdate(), connection), postgres ? "42501" : "1227 42000");
                equal(refused(with -> run(with, "insert into kept values (99)"), connection), postgres ? "42501" : "1227 42000");
            }
            equal(connection.isClosed(), false);
            waitFor("unblock me");
            equal(statement.executeUpdate(), 1);
        }
        connection.commit();
        equal(ask(connection, "select count(*) from kept"), 11);
    }

    static void dropIdle(Connection connection) throws Exception {
        equal(ask(connection, "select 1"), 1);
        waitFor("drop me");
        disconnected(connection, "select 2");
        equal(refused(with -> run(with, "select 3"), connection).equals("no error"), false);
    }

    static void dropRunning(Connection connection) throws Exception {
        say("drop me");
        disconnected(connection, slow("jdbc drop"));
    }
}
