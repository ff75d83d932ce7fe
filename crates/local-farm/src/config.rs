//! Owns: the configuration text of a private server. Pure: never touches the disk.

use std::fmt::Write;
use std::path::Path;

use crate::options::{ClusterSeat, Login, NatsOptions, SyncInterval};

/// What the server is told beside the caller's options. `client_port` -1 means any free one.
pub(crate) fn text(options: &NatsOptions, client_port: i32) -> Result<String, String> {
    let folder = &options.folder;
    let mut text = format!(
        "# written by grange at every start; changes are lost\n\
         server_name: {name}\n\
         host: \"127.0.0.1\"\n\
         port: {client_port}\n\
         max_payload: 8MB\n\
         ping_interval: \"5s\"\n\
         ping_max: 2\n\
         write_deadline: \"10s\"\n\
         log_file: {log}\n\
         log_size_limit: 16MB\n\
         log_max_num: 3\n",
        name = quoted(&options.name)?,
        log = quoted_path(&folder.join("nats-server.log"))?,
    );
    if options.monitor {
        text.push_str("http: \"127.0.0.1:-1\"\n");
    }
    text.push_str(&jetstream(options)?);
    if let Some(login) = &options.login {
        text.push_str(&authorization(login)?);
    }
    if let Some(seat) = &options.cluster {
        text.push_str(&cluster(seat)?);
    }
    text.push_str(&options.extra_config);
    Ok(text)
}

fn jetstream(options: &NatsOptions) -> Result<String, String> {
    let mut block = format!(
        "jetstream {{\n  store_dir: {}\n  max_memory_store: 256MB\n",
        quoted_path(&options.folder.join("store"))?
    );
    if let Some(bytes) = options.max_file_store_bytes {
        line(&mut block, format_args!("  max_file_store: {bytes}"));
    }
    match options.sync {
        SyncInterval::Default => {}
        SyncInterval::Always => line(&mut block, format_args!("  sync_interval: always")),
    }
    block.push_str("}\n");
    Ok(block)
}

fn authorization(login: &Login) -> Result<String, String> {
    Ok(match login {
        Login::User { user, password } => {
            format!("authorization {{ user: {}, password: {} }}\n", quoted(user)?, quoted(password)?)
        }
        Login::Token(token) => format!("authorization {{ token: {} }}\n", quoted(token)?),
    })
}

fn cluster(seat: &ClusterSeat) -> Result<String, String> {
    let routes: Vec<String> = seat.routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    Ok(format!(
        "cluster {{\n  name: {}\n  listen: \"127.0.0.1:{}\"\n  routes: [{}]\n  no_advertise: true\n}}\n",
        quoted(&seat.name)?,
        seat.port,
        routes.join(", ")
    ))
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing into a string cannot fail");
}

fn quoted_path(path: &Path) -> Result<String, String> {
    quoted(path.to_str().ok_or_else(|| format!("path `{}` is not UTF-8", path.display()))?)
}

fn quoted(value: &str) -> Result<String, String> {
    if value.chars().any(char::is_control) {
        return Err("a name, path or secret has a control character".to_owned());
    }
    Ok(format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use super::text;
    use crate::options::{ClusterSeat, Login, NatsOptions, SyncInterval};

    #[test]
    fn every_option_reaches_the_text() {
        let mut options = NatsOptions::new("/bin/nats-server".into(), "/farm dir".into());
        let plain = text(&options, -1).unwrap();
        assert!(plain.contains("port: -1\n") && plain.contains("store_dir: \"/farm dir/store\""), "{plain}");
        for absent in ["sync_interval", "max_file_store", "http", "authorization", "cluster"] {
            assert!(!plain.contains(absent), "{absent} in {plain}");
        }
        options.sync = SyncInterval::Always;
        options.max_file_store_bytes = Some(1 << 20);
        options.monitor = true;
        options.login = Some(Login::User { user: "a".to_owned(), password: "q\"\\".to_owned() });
        options.cluster = Some(ClusterSeat { name: "c".to_owned(), port: 7, routes: vec![8, 9] });
        let full = text(&options, 4222).unwrap();
        for present in [
            "port: 4222\n",
            "sync_interval: always",
            "max_file_store: 1048576",
            "http: \"127.0.0.1:-1\"",
            r#"password: "q\"\\""#,
            "routes: [nats://127.0.0.1:8, nats://127.0.0.1:9]",
        ] {
            assert!(full.contains(present), "{present} not in {full}");
        }
    }

    #[test]
    fn a_secret_cannot_add_lines() {
        let mut options = NatsOptions::new("/bin/nats-server".into(), "/farm".into());
        options.login = Some(Login::Token("a\nport: 1".to_owned()));
        assert!(text(&options, -1).is_err());
    }
}
