"""Toxiproxy: TCP proxies that delay, cut and starve connections; tests make them over its HTTP API."""

from pathlib import Path

from . import installation
from .loopback import HOST, Request, expect_ok
from .processes import Launch
from .service import Place, Service


class Toxiproxy(Service):
    """The server only. Proxies live in its memory: one that was killed comes back without any."""

    name = "toxiproxy"
    version = "2.12.0"
    ports = ("http",)
    variable = "TOXIPROXY_URL"

    def install(self, folder: Path, log: Path) -> None:
        module = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{self.version}"
        installation.run([installation.tool("go"), "install", module], log, folder, {"GOBIN": str(folder)})
        (folder / "server").rename(folder / "toxiproxy-server")

    def prepare(self, place: Place) -> Launch:
        place.data.mkdir(parents=True, exist_ok=True)
        command = [f"{place.installed}/toxiproxy-server", "-host", HOST, "-port", str(place.ports["http"])]
        return Launch(command, {}, str(place.data))

    def address(self, port: int) -> str:
        return f"http://{HOST}:{port}"

    def check(self, address: str) -> None:
        expect_ok(Request(f"{address}/version"))

    def exports(self, address: str) -> dict[str, str]:
        return {"TOXIPROXY_URL": address}
