-- The roles and the database of VashSender: run once by a superuser, through psql. Repeating it changes only passwords.
-- It holds no password, only what the server keeps of one (SCRAM-SHA-256, RFC 5802).
-- Rights on tables are given by `vashsender db upgrade`, after every migration.
\set ON_ERROR_STOP on

DO $$$$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[${names}] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I', role);
        END IF;
    END LOOP;
END
$$$$;

${passwords}

SELECT 'CREATE DATABASE ${database} OWNER ${owner}'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '${database}') \gexec

REVOKE ALL ON DATABASE ${database} FROM PUBLIC;
GRANT CONNECT ON DATABASE ${database} TO ${services};

\connect ${database}
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO ${owner};
GRANT USAGE ON SCHEMA public TO ${services};
