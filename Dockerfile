# tusserver in a container: no root, no compiler, nothing but the server and what it needs at run time.
#
#   docker build -t tusserver . && docker run -p 127.0.0.1:8080:8080 -v uploads:/data tusserver

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
# uv, unlike pip, checks the lock's hashes also where the lock only constrains: the image wants the versions of
# requirements.lock, but not the test tools that stand in it too.
RUN pip install --no-cache-dir --root-user-action=ignore uv==0.13.9
ENV UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
RUN uv venv /opt/tusserver
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY tusserver tusserver
RUN uv pip install --python /opt/tusserver/bin/python --compile-bytecode \
    --constraints requirements.lock --build-constraints requirements.lock '.[server,checksums]'

FROM python:${PYTHON}-slim
# A fixed id, so that a folder of the host can be given to it: chown 10001 FOLDER
RUN groupadd --system --gid 10001 tusserver \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tusserver \
    && install -d -o tusserver -g tusserver -m 0700 /data
COPY --from=build /opt/tusserver /opt/tusserver
ENV PATH=/opt/tusserver/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TUSSERVER_HOST=0.0.0.0 \
    TUSSERVER_PORT=8080 \
    TUSSERVER_PATH=/files \
    TUSSERVER_STORAGE=/data
# A tusserver.toml here is read; never one in the data folder, where names can come from clients.
WORKDIR /etc/tusserver
VOLUME /data
EXPOSE 8080
USER 10001:10001
# The server finishes what is in its hands, keeps every byte it has and ends with 0.
STOPSIGNAL SIGTERM
# http.client asks directly, whatever proxy the environment names.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-c", "import http.client, os; server = http.client.HTTPConnection('127.0.0.1', int(os.environ['TUSSERVER_PORT']), timeout=4); server.request('GET', '/readyz'); raise SystemExit(server.getresponse().status >= 400)"]
ENTRYPOINT ["tusserver"]
CMD ["serve"]
