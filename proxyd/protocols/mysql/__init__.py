"""MySQL and MariaDB: the client/server protocol 10, with every statement on the tape and no row."""
