"""A plain libtorrent client, with libtorrent's own defaults as far as they concern peers.

usage: libtorrent-client.py seed|leech TORRENT DIRECTORY IP:PORT [tcp]

`leech` ends once everything is there; `tcp` does without uTP, which is several times as fast on
a fast line. Debian's python3-libtorrent, so Debian's python3.
"""

import sys

import libtorrent

role, torrent, directory, listen, *only = sys.argv[1:]
session = libtorrent.session({
    "listen_interfaces": listen,
    "outgoing_interfaces": listen.rsplit(":", 1)[0],
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_outgoing_utp": not only, "enable_incoming_utp": not only,
    "alert_mask": libtorrent.alert.category_t.error_notification
    | libtorrent.alert.category_t.status_notification,
})
params = libtorrent.add_torrent_params()
params.ti = libtorrent.torrent_info(torrent)
params.save_path = directory
handle = session.add_torrent(params)
while role == "seed" or not handle.status().is_seeding:
    session.wait_for_alert(200)
    for alert in session.pop_alerts():
        print(alert, flush=True)
