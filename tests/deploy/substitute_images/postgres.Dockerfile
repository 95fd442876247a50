# Replaces docker.io/library/postgres:17: its user, its folders, its volume, how it starts.
FROM substitute:base
RUN groupmod -o -g 999 postgres && usermod -o -u 999 -g 999 postgres && rm -rf /var/lib/postgresql \
    && install -d -o 999 -g 999 -m 1777 /var/lib/postgresql /var/lib/postgresql/data \
    && install -d -o 999 -g 999 -m 3777 /var/run/postgresql && mkdir /docker-entrypoint-initdb.d
ENV PATH=/usr/local/bin:/usr/lib/postgresql/17/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
COPY postgres-entrypoint /usr/local/bin/
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entrypoint"]
CMD ["postgres"]
