//! The one HTTP server: its socket, its workers, its limits, its routes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::{App as Actix, HttpServer};
use socket2::{Domain, Protocol, Socket, Type};

use crate::api::{self, App};
use crate::config::Config;
use crate::limits::STUCK_READER_MS;

/// A socket that listens. Options set here are inherited by every connection.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    // Ends connections whose client takes nothing of an answer; the server itself has no time limit for that.
    rustix::net::sockopt::set_tcp_user_timeout(&socket, STUCK_READER_MS)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections that the kernel holds until a worker takes them.
const BACKLOG: i32 = 4_096;

/// The server, to be awaited or stopped by its handle.
pub fn serve(listener: TcpListener, app: Arc<App>, config: &Config) -> io::Result<Server> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let server = HttpServer::new(move || Actix::new().configure(|routes| api::routes(routes, app.clone())))
        .workers(workers)
        .max_connections(config.connections_max.div_ceil(workers))
        .client_request_timeout(config.request_timeout)
        .keep_alive(config.idle_timeout)
        .shutdown_timeout(1)
        .disable_signals()
        .listen(listener)?;
    Ok(server.run())
}
