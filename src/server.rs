//! The one HTTP server: its socket, its workers, its limits, its routes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpService;
use actix_server::Server;
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::web::{self, Payload};
use actix_web::{App as Actix, HttpRequest, HttpResponse};
use tokio::net::TcpStream;

use socket2::{Domain, Protocol, Socket, Type};

use crate::api::{self, Answer, App, Code, Problem, Turn, Wire};
use crate::config::Config;
use crate::limits::{LINGER_MS, STUCK_READER_MS, UNSENT_BYTES};
use crate::network::{self, Denied, Door};

/// A socket that listens. Options set here are inherited by every connection.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    // Ends connections whose client takes nothing of an answer; the server itself has no time limit for that.
    rustix::net::sockopt::set_tcp_user_timeout(&socket, STUCK_READER_MS)?;
    // Else megabytes wait in the kernel, and how fast a client takes them is not seen.
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections that the kernel holds until a worker takes them.
const BACKLOG: i32 = 4_096;

/// The server, to be awaited or stopped by its handle.
///
/// What `actix_web::HttpServer` does, over a stream of our own.
pub fn serve(listener: TcpListener, app: Arc<App>, door: Arc<Door>, config: &Config) -> io::Result<Server> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let (request_timeout, idle_timeout) = (config.request_timeout, config.idle_timeout);
    let service = move || {
        let metrics = app.metrics.clone();
        let shared = Shared { app: app.clone(), door: door.clone() };
        // One service takes every path: the framework's own router runs a regular expression on each request, which costs
        // as much as the whole read of a key.
        let http = Actix::new().app_data(shared).default_service(web::to(route));
        let http = HttpService::build()
            .client_request_timeout(request_timeout)
            .keep_alive(idle_timeout)
            .client_disconnect_timeout(Duration::from_millis(LINGER_MS))
            .on_connect_ext(|wire: &Wire, data| drop(data.insert(wire.turn())))
            .h1(map_config(http.into_factory(), |()| AppConfig::default()));
        fn_service(move |stream: TcpStream| {
            let peer = stream.peer_addr().ok();
            std::future::ready(Ok((Wire::new(stream, metrics.clone(), request_timeout), peer)))
        })
        .and_then(http)
    };
    let server = Server::build()
        .workers(workers)
        .max_concurrent_connections(config.connections_max.div_ceil(workers))
        .shutdown_timeout(1)
        .disable_signals()
        .listen("clients", listener, service)?;
    Ok(server.run())
}

/// What every request can reach.
struct Shared {
    app: Arc<App>,
    door: Arc<Door>,
}

/// Every request: peers have their door, clients theirs.
async fn route(request: HttpRequest, mut payload: Payload) -> HttpResponse<Answer> {
    let turn = request.conn_data::<Turn>().expect("put there with every connection").clone();
    turn.begin(request.method(), request.headers());
    let Shared { app, door } = request.app_data::<Shared>().expect("put there with the service");
    let answer = if request.path().starts_with("/cluster/") {
        network::answer(door, &request, &mut payload).await.map_err(|denied| problem(denied, &request))
    } else if api::is_eviction(&request) && !door.admits(&request) {
        Err(problem(Denied::Secret, &request))
    } else {
        api::answer(app, &request, &mut payload).await
    };
    // What nobody has read of the body stands before the next request of the connection.
    let clean = api::drained(&mut payload, &turn).await;
    api::finish(app, answer, turn, (!clean).then_some(payload))
}

fn problem(denied: Denied, request: &HttpRequest) -> Problem {
    match denied {
        Denied::Secret => Problem::new(
            Code::Unauthorized,
            "/cluster/ and evictions are for nodes and operators: they show the cluster secret as \
             'Authorization: Bearer <secret>'",
        ),
        Denied::NoSecret => Problem::new(
            Code::Unauthorized,
            "the request shows a cluster secret, and this node has none: start it with the others' --cluster-secret-file",
        ),
        Denied::Path => api::no_such_path(request.path()),
        Denied::Method => Problem::not_allowed(request.method().as_str(), "POST"),
        Denied::Parameters => Problem::new(Code::InvalidParameter, "this path takes no parameters"),
        Denied::Unreadable(why) => Problem::new(Code::InvalidBody, why),
        Denied::Late => Problem::new(Code::RequestTimeout, "the message did not arrive in time"),
        Denied::Stays(why) => Problem::new(Code::CantLeave, why),
        Denied::Busy => Problem::new(Code::Busy, "too many large messages are under way: try again"),
        Denied::Starting => Problem::new(Code::Starting, "the node is not ready for its peers: try again"),
    }
}
