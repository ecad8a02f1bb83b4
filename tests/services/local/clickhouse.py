"""ClickHouse: the code of the real server, from the library that npm's chdb package carries.

The library holds the `clickhouse-local` program, which since 26.7 can listen as the server does: HTTP and native
protocol, MergeTree and its deduplication, views. Not in it: Keeper and so Replicated tables, `system.query_log`.
"""

import platform
import sys
import tarfile
from pathlib import Path

from . import installation
from .failure import Failure
from .loopback import HOST, Request, expect_ok
from .processes import Launch
from .service import DATABASE, Place, Service

LAUNCHER = Path(__file__).with_name("clickhouse_launcher.py")
# Starts to listen; the last query only keeps the program from ending.
QUERY = ("SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; "
         "SELECT count() FROM system.numbers WHERE NOT ignore(sleepEachRow(1)) "
         "SETTINGS max_block_size=1, function_sleep_max_microseconds_per_block=0")

CONFIG = "<clickhouse><users_config>users.xml</users_config></clickhouse>\n"
# Beside the default user: one whose profile changes what inserts and questions mean, one who may not write, and one whose
# password is `keyed`, or what the file `passwords` in the data folder says when the server is started again.
USERS = """<clickhouse>
  <profiles>
    <default/>
    <reading><readonly>1</readonly></reading>
    <odd>
      <aggregate_functions_null_for_empty>1</aggregate_functions_null_for_empty>
      <async_insert>1</async_insert>
      <deduplicate_insert>disable</deduplicate_insert>
      <deduplicate_insert_select>disable</deduplicate_insert_select>
      <final>1</final>
      <force_index_by_date>1</force_index_by_date>
      <force_primary_key>1</force_primary_key>
      <group_by_overflow_mode>any</group_by_overflow_mode>
      <group_by_use_nulls>1</group_by_use_nulls>
      <insert_deduplicate>0</insert_deduplicate>
      <limit>7</limit>
      <max_block_size>3</max_block_size>
      <max_insert_block_size>5</max_insert_block_size>
      <max_result_rows>1</max_result_rows>
      <max_rows_to_group_by>5</max_rows_to_group_by>
      <max_rows_to_read>2</max_rows_to_read>
      <min_insert_block_size_rows>1</min_insert_block_size_rows>
      <offset>3</offset>
      <optimize_on_insert>0</optimize_on_insert>
      <transform_null_in>1</transform_null_in>
      <use_query_cache>1</use_query_cache>
    </odd>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
    </default>
    <odd>
      <password>odd</password><networks><ip>::/0</ip></networks><profile>odd</profile><quota>default</quota>
    </odd>
    <reading>
      <password>reading</password><networks><ip>::/0</ip></networks><profile>reading</profile><quota>default</quota>
    </reading>
    <keyed>
      <password>{keyed}</password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
    </keyed>
  </users>
</clickhouse>
"""


class ClickHouse(Service):
    """One server; databases, tables and the log of deduplication survive `kill -9`."""

    name = "clickhouse"
    version = "26.7.3-stable.1"
    ports = ("http", "native")
    variable = "CLICKHOUSE_URL"

    def install(self, folder: Path, log: Path) -> None:
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise Failure("its package is for Linux on x86_64 only; start one by tests/services/docker-compose.yml "
                          f"and set {self.variable}")
        package = f"@chdb/lib-linux-x64-gnu@{self.version}"
        installation.run([installation.tool("npm"), "pack", package], log, folder)
        [archive] = folder.glob("*.tgz")
        with tarfile.open(archive) as content:
            library = content.getmember("package/libchdb.so")
            library.name = "libchdb.so"
            content.extract(library, folder)
        archive.unlink()

    def prepare(self, place: Place) -> Launch:
        settings = place.data / "config"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "config.xml").write_text(CONFIG)
        passwords = self._passwords(place)
        keyed = passwords.read_text().strip() if passwords.exists() else "keyed"
        (settings / "users.xml").write_text(USERS.format(keyed=keyed))
        command = [sys.executable, str(LAUNCHER), f"{place.installed}/libchdb.so", "--multiquery",
                   f"--config-file={settings / 'config.xml'}",
                   f"--path={place.data}", f"--listen_host={HOST}", f"--http_port={place.ports['http']}",
                   f"--tcp_port={place.ports['native']}", "--logger.console", "--log-level=warning", f"--query={QUERY}"]
        return Launch(command, {}, str(place.data))

    def address(self, port: int) -> str:
        return f"http://{HOST}:{port}"

    def check(self, address: str) -> None:
        expect_ok(Request(f"{address}/ping"))

    def furnish(self, address: str) -> None:
        # The database `default` of clickhouse-local is no plain one: it overlays files.
        expect_ok(Request(address, f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE=Atomic".encode()))

    @staticmethod
    def _passwords(place: Place) -> Path:
        return place.data / "passwords"

    def beside(self, place: Place) -> dict[str, str]:
        return {"CLICKHOUSE_PASSWORDS": str(self._passwords(place))}

    def exports(self, address: str) -> dict[str, str]:
        return {"CLICKHOUSE_URL": address}
