# Replaces docker.io/library/rabbitmq:4-management: its user, its folders, its volume, how it starts.
FROM substitute:base
RUN groupmod -o -g 999 rabbitmq && usermod -o -u 999 -g 999 rabbitmq \
    && rm -rf /var/lib/rabbitmq /etc/rabbitmq/rabbitmq-env.conf \
    && install -d -o 999 -g 999 -m 1777 /var/lib/rabbitmq /var/log/rabbitmq /etc/rabbitmq/conf.d \
    && echo '[rabbitmq_management,rabbitmq_prometheus].' > /etc/rabbitmq/enabled_plugins
ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/var/lib/rabbitmq LANG=C.UTF-8
VOLUME /var/lib/rabbitmq
ENV RUNNING_UNDER_SYSTEMD=true
ENTRYPOINT ["env", "--"]
CMD ["rabbitmq-server"]
