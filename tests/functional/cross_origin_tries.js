// Try everything by which a page can reach an address, and return the outcome of each attempt.
async (base) => {
    // Far longer than any expected event takes.
    const TIMEOUT_MS = 60_000;
    const settled = (element, act, wait = 3000) => new Promise((done) => {
        element.onload = () => done("loaded");
        element.onerror = () => done("error");
        act();
        document.body.append(element);
        setTimeout(() => done("nothing"), wait);
    });
    const text = async (path, options) => {
        try {
            const response = await fetch(base + path, options);
            if (response.type === "opaque") return "opaque";
            return `${response.status} ${await response.text()}`;
        } catch {
            return "refused";
        }
    };
    const element = (tag, attributes, wait) =>
        settled(Object.assign(document.createElement(tag), attributes), () => {}, wait);
    const form = (method, path) => {
        const frame = Object.assign(document.createElement("iframe"), { name: "f" + Math.random() });
        return settled(frame, () => {
            document.body.append(frame);
            const sent = Object.assign(document.createElement("form"), {
                method, action: base + path, target: frame.name,
            });
            document.body.append(sent);
            sent.submit();
        });
    };
    const stream = (path) => new Promise((done) => {
        const source = new EventSource(base + path);
        const end = (outcome) => { source.close(); done(outcome); };
        source.onmessage = ({ data }) => end(data);
        source.onerror = () => source.readyState === EventSource.CLOSED && end("closed");
        setTimeout(() => end("nothing"), TIMEOUT_MS);
    });
    const json = { "Content-Type": "application/json", "Idempotency-Key": "k" };
    const outcomes = {
        read: await text("/current"),
        "read history": await text("/history", { headers: { Accept: "application/json" } }),
        "fetch GET": await text("/next"),
        "fetch POST": await text("/next", { method: "POST" }),
        "fetch with a key": await text("/next", { method: "POST", headers: json, body: "{}" }),
        "fetch without CORS": await text("/next", { mode: "no-cors" }),
        "fetch POST without CORS": await text("/next", { method: "POST", mode: "no-cors" }),
        "fetch kept alive": await text("/next", { method: "POST", mode: "no-cors", keepalive: true }),
        image: await element("img", { src: base + "/next" }, TIMEOUT_MS),
        script: await element("script", { src: base + "/next" }, TIMEOUT_MS),
        frame: await element("iframe", { src: base + "/next" }),
        object: await element("object", { data: base + "/next" }),
        "form GET": await form("get", "/next"),
        "form POST": await form("post", "/next"),
        events: await stream("/events"),
        "fetch of events": await text("/events", { mode: "no-cors", signal: AbortSignal.timeout(1000) }),
    };
    navigator.sendBeacon(base + "/next", "x");
    const hints = ["prefetch", "prerender", "preload", "stylesheet"].map((rel) =>
        element("link", { rel, href: base + "/next", as: "image" }));
    await Promise.all(hints.map((hint) => Promise.race([hint, new Promise((done) => setTimeout(done, 1500))])));
    return outcomes;
}
