//! Requests that no one has seen before: as many as one likes, all different, the same for the same seed. For measurements
//! (one request in a loop measures nothing but caches) and for holding the fast plan to the plain interpreter.

use super::Request;

/// A small generator of numbers (xorshift): reproducible everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below.max(1)
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.roll(list.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }
}

const WORDS: &[&str] = &[
    "account",
    "address",
    "alpha",
    "annual",
    "apple",
    "archive",
    "article",
    "autumn",
    "basket",
    "blue",
    "book",
    "bridge",
    "budget",
    "camera",
    "carpet",
    "category",
    "center",
    "cheap",
    "city",
    "client",
    "coffee",
    "color",
    "comment",
    "company",
    "contact",
    "content",
    "country",
    "course",
    "create",
    "customer",
    "daily",
    "data",
    "delete",
    "delivery",
    "design",
    "detail",
    "different",
    "discount",
    "document",
    "double",
    "download",
    "edit",
    "email",
    "event",
    "export",
    "family",
    "filter",
    "first",
    "flight",
    "forest",
    "garden",
    "green",
    "group",
    "guide",
    "hello",
    "history",
    "holiday",
    "hotel",
    "house",
    "image",
    "index",
    "invoice",
    "item",
    "jacket",
    "january",
    "kitchen",
    "language",
    "laptop",
    "large",
    "latest",
    "letter",
    "library",
    "like",
    "list",
    "login",
    "manager",
    "market",
    "meeting",
    "message",
    "mobile",
    "model",
    "monday",
    "mountain",
    "music",
    "name",
    "network",
    "new",
    "news",
    "number",
    "offer",
    "office",
    "online",
    "open",
    "or",
    "order",
    "page",
    "paper",
    "password",
    "payment",
    "person",
    "phone",
    "photo",
    "picture",
    "plan",
    "point",
    "price",
    "print",
    "private",
    "product",
    "profile",
    "project",
    "public",
    "quality",
    "query",
    "question",
    "random",
    "recipe",
    "region",
    "report",
    "result",
    "review",
    "river",
    "room",
    "sale",
    "school",
    "search",
    "second",
    "select",
    "service",
    "session",
    "set",
    "shipping",
    "shoes",
    "shop",
    "simple",
    "size",
    "small",
    "sort",
    "special",
    "spring",
    "standard",
    "start",
    "status",
    "street",
    "student",
    "style",
    "summer",
    "support",
    "system",
    "table",
    "team",
    "test",
    "the",
    "ticket",
    "title",
    "today",
    "token",
    "total",
    "travel",
    "type",
    "union",
    "update",
    "upload",
    "user",
    "value",
    "version",
    "video",
    "view",
    "water",
    "website",
    "weekend",
    "where",
    "white",
    "window",
    "winter",
    "with",
    "world",
    "yellow",
    "zone",
];

const AGENTS: &[&str] = &[
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/1{}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:1{}.0) Gecko/20100101 Firefox/1{}.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 1{}_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/1{}.3 Safari/605.1.15",
    "okhttp/4.{}.0",
    "curl/8.{}.1",
    "python-requests/2.{}.0",
    "PostmanRuntime/7.{}.3",
];

/// Pieces of attacks, to be put together at random.
const HOSTILE: &[&str] = &[
    "' or '1'='1",
    "\" or 1=1--",
    "union select",
    "select * from users",
    "/**/",
    "sleep(5)",
    "benchmark(1000000,md5(1))",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "onmouseover=",
    "<svg/onload=x>",
    "../../../etc/passwd",
    "..%2f..%2f",
    "....//",
    "%00",
    "/etc/shadow",
    "c:\\windows\\system32\\",
    "file:///etc/hosts",
    "; cat /etc/passwd",
    "| id",
    "`whoami`",
    "$(uname -a)",
    "&& ping -c 1 127.0.0.1",
    "/bin/sh -c",
    "powershell -enc",
    "${jndi:ldap://x/a}",
    "{{7*7}}",
    "<%= 1 %>",
    "#{1}",
    "<?php system('id'); ?>",
    "phpinfo()",
    "eval(base64_decode(",
    "O:8:\"stdClass\":0:{}",
    "rO0ABQ",
    "Runtime.getRuntime().exec",
    "process.env",
    "require('fs')",
    "__proto__",
    "http://169.254.169.254/latest",
    "gopher://",
    "\r\nSet-Cookie: x=y",
    "%0d%0aLocation:",
    "(|(uid=*))",
    "*)(uid=*",
    "\\u003cscript\\u003e",
    "&#x3c;script&#x3e;",
    "\\x3cscript\\x3e",
    "%u003cscript",
    "%253cscript%253e",
    "ſcript",
    "b\"u's\\y",
    "c^a^t",
    "w'h'o",
    "\u{ff1c}script\u{ff1e}",
    "1;drop table x",
    "waitfor delay '0:0:5'",
    "xp_cmdshell",
    "@@version",
    "0x41414141",
    "concat(0x3a,user())",
    "having 1=1",
    "order by 10",
    "&lt;",
    "%",
    "\\",
    "\"",
    "'",
    "`",
    "<",
    ">",
    "$",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "|",
    ";",
    "&",
    "=",
    "#",
    "!",
    "@",
    "*",
    "\t",
    "\n",
    "\0",
    "\u{e9}",
    "\u{4e2d}",
];

/// A benign request, different each time.
pub fn benign(dice: &mut Dice) -> Request {
    let mut request = Request { method: b"GET".to_vec(), version: b"HTTP/1.1".to_vec(), ..Request::default() };
    let mut target = String::new();
    for _ in 0..1 + dice.roll(4) {
        target.push('/');
        target.push_str(&segment(dice));
    }
    let parameters = if dice.chance(65) { dice.roll(7) } else { 0 };
    for i in 0..parameters {
        target.push(if i == 0 { '?' } else { '&' });
        target.push_str(&format!("{}={}", dice.pick(WORDS), escape(&value(dice))));
    }
    request.target = target.into_bytes();
    browser_headers(dice, &mut request);
    if dice.chance(32) {
        body(dice, &mut request);
    }
    request
}

/// The same with pieces of attacks in any place.
pub fn hostile(dice: &mut Dice) -> Request {
    let mut request = benign(dice);
    for _ in 0..1 + dice.roll(3) {
        let mut text = String::new();
        for _ in 0..1 + dice.roll(5) {
            text.push_str(dice.pick(HOSTILE));
            if dice.chance(40) {
                text.push_str(dice.pick(&[" ", "", "+", "/", "."]));
                text.push_str(dice.pick(WORDS));
            }
        }
        place(dice, &mut request, &text);
    }
    request
}

fn place(dice: &mut Dice, request: &mut Request, text: &str) {
    let raw = |t: &str| t.bytes().filter(|b| *b > 0x20 && *b != 0x7f && *b != b'#').collect::<Vec<u8>>();
    match dice.roll(6) {
        0 | 1 => {
            let separator = if request.target.contains(&b'?') { b'&' } else { b'?' };
            request.target.push(separator);
            let text = format!("{}={}", dice.pick(WORDS), escape(text));
            request.target.extend_from_slice(text.as_bytes());
        }
        2 => request.target.extend_from_slice(&raw(text)),
        3 => {
            let at = dice.roll(request.headers.len());
            if let Some((_, value)) = request.headers.get_mut(at) {
                value.extend(text.bytes().filter(|b| *b >= 0x20 && *b != 0x7f));
            }
        }
        4 => {
            let value = [b"c=", raw(text).as_slice()].concat();
            request.headers.push((b"Cookie".to_vec(), value));
        }
        _ => request.body.extend_from_slice(text.as_bytes()),
    }
}

fn segment(dice: &mut Dice) -> String {
    match dice.roll(8) {
        0 => format!("{}", dice.roll(1_000_000)),
        1 => format!("{}-{}", dice.pick(WORDS), dice.pick(WORDS)),
        2 => format!("{}.{}", dice.pick(WORDS), dice.pick(&["html", "css", "js", "png", "json", "php", "aspx"])),
        3 => token(dice, 22),
        4 => format!("v{}", 1 + dice.roll(3)),
        _ => dice.pick(WORDS).to_owned(),
    }
}

fn token(dice: &mut Dice, length: usize) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..length).map(|_| char::from(dice.pick(ALPHABET))).collect()
}

fn sentence(dice: &mut Dice) -> String {
    let mut out = String::new();
    for i in 0..2 + dice.roll(18) {
        if i > 0 {
            out.push_str(
                dice.pick(&[" ", " ", " ", " ", ", ", ". ", " - ", " & ", "\n", " (", ") ", "'s ", "! ", "? ", ": "]),
            );
        }
        out.push_str(dice.pick(WORDS));
    }
    out
}

fn value(dice: &mut Dice) -> String {
    match dice.roll(16) {
        0..=2 => format!("{}", dice.roll(100_000)),
        3..=5 => dice.pick(WORDS).to_owned(),
        6 => token(dice, 16),
        7 => format!("20{}-{:02}-{:02}", 10 + dice.roll(20), 1 + dice.roll(12), 1 + dice.roll(28)),
        8 => format!("{}.{}@example.{}", dice.pick(WORDS), dice.pick(WORDS), dice.pick(&["com", "org", "net"])),
        9 => format!(
            "https://www.{}.example/{}?{}={}",
            dice.pick(WORDS),
            dice.pick(WORDS),
            dice.pick(WORDS),
            dice.roll(99)
        ),
        10 => format!("{} {}", dice.pick(WORDS), dice.pick(WORDS)),
        11 => format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}",
            dice.roll(1 << 32),
            dice.roll(1 << 16),
            dice.roll(4096),
            dice.roll(4096)
        ),
        12 => ["true", "false", "asc", "desc", "en-US"][dice.roll(5)].to_owned(),
        13 => format!("{},{},{}", dice.pick(WORDS), dice.pick(WORDS), dice.roll(10)),
        14 => format!("{}.{}", dice.roll(1000), dice.roll(100)),
        _ => sentence(dice),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b' ' => out.push('+'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

fn browser_headers(dice: &mut Dice, request: &mut Request) {
    let mut add = |name: &str, value: String| request.headers.push((name.as_bytes().to_vec(), value.into_bytes()));
    add("Host", format!("{}.example.com", dice.pick(WORDS)));
    let agent = dice.pick(AGENTS).replace("{}", &dice.roll(30).to_string());
    let browser = agent.starts_with("Mozilla");
    add("User-Agent", agent);
    if !browser {
        add("Accept", "*/*".to_owned());
        if dice.chance(60) {
            add("Authorization", format!("Bearer {}.{}.{}", token(dice, 36), token(dice, 120), token(dice, 43)));
        }
        return;
    }
    add("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8".to_owned());
    add(
        "Accept-Language",
        format!("{},en;q=0.{}", dice.pick(&["en-US", "de-DE", "fr-FR", "pt-BR", "ja"]), 1 + dice.roll(9)),
    );
    add("Accept-Encoding", "gzip, deflate, br, zstd".to_owned());
    add("Connection", "keep-alive".to_owned());
    if dice.chance(50) {
        add(
            "Referer",
            format!(
                "https://{}.example.com/{}?{}={}",
                dice.pick(WORDS),
                segment(dice),
                dice.pick(WORDS),
                dice.roll(99)
            ),
        );
    }
    if dice.chance(70) {
        let cookies: Vec<String> = (0..1 + dice.roll(6))
            .map(|_| {
                let length = 4 + dice.roll(40);
                format!("{}{}={}", dice.pick(&["_", "", "s_", "x-"]), dice.pick(WORDS), token(dice, length))
            })
            .collect();
        add("Cookie", cookies.join("; "));
    }
    if dice.chance(40) {
        add("Sec-CH-UA", format!("\"Chromium\";v=\"1{:02}\", \"Not=A?Brand\";v=\"24\"", dice.roll(40)));
        add("Sec-Fetch-Mode", "navigate".to_owned());
        add("Sec-Fetch-Site", "same-origin".to_owned());
    }
}

fn body(dice: &mut Dice, request: &mut Request) {
    request.method = dice.pick(&[&b"POST"[..], b"POST", b"PUT", b"PATCH"]).to_vec();
    let (kind, text) = match dice.roll(10) {
        0..=3 => {
            let pairs: Vec<String> =
                (0..1 + dice.roll(9)).map(|_| format!("{}={}", dice.pick(WORDS), escape(&value(dice)))).collect();
            ("application/x-www-form-urlencoded".to_owned(), pairs.join("&"))
        }
        4..=7 => ("application/json".to_owned(), json(dice, 0)),
        8 => {
            let boundary = format!("----WebKitFormBoundary{}", token(dice, 16).replace('_', "a"));
            let mut text = String::new();
            for _ in 0..1 + dice.roll(4) {
                text.push_str(&format!(
                    "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n{}\r\n",
                    dice.pick(WORDS),
                    value(dice)
                ));
            }
            text.push_str(&format!("--{boundary}--\r\n"));
            (format!("multipart/form-data; boundary={boundary}"), text)
        }
        _ => {
            let items: String = (0..1 + dice.roll(6))
                .map(|_| format!("<item id=\"{}\">{}</item>", dice.roll(999), dice.pick(WORDS)))
                .collect();
            ("text/xml".to_owned(), format!("<?xml version=\"1.0\"?><list>{items}</list>"))
        }
    };
    request.body = text.into_bytes();
    request.headers.push((b"Content-Type".to_vec(), kind.into_bytes()));
    request.headers.push((b"Content-Length".to_vec(), request.body.len().to_string().into_bytes()));
}

fn json(dice: &mut Dice, depth: usize) -> String {
    let text = |dice: &mut Dice| {
        let v = value(dice);
        format!("\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    };
    match dice.roll(if depth > 2 { 3 } else { 6 }) {
        0 => dice.roll(100_000).to_string(),
        1 | 2 if depth > 0 => text(dice),
        3 if depth > 0 => {
            let items: Vec<String> = (0..dice.roll(4)).map(|_| json(dice, depth + 1)).collect();
            format!("[{}]", items.join(","))
        }
        _ => {
            let fields: Vec<String> =
                (0..1 + dice.roll(6)).map(|_| format!("\"{}\":{}", dice.pick(WORDS), json(dice, depth + 1))).collect();
            format!("{{{}}}", fields.join(","))
        }
    }
}
