"""Silent films of a walk through a page: pictures that the browser took, as a WebM file.

Every picture stands as long as it takes to read its sentence, and waiting is left out, so a film
is the same on a fast machine and on a busy one. The browser encodes it (WebCodecs), so nothing but
the browser is needed.
"""

import base64
import json
import struct

from tests.conftest import REPOSITORY

FILMS = REPOSITORY / "build" / "films"
LONGEST = 120  # seconds
STRIP = 72  # pixels below the picture, for the sentence that is said
PER_LETTER, AT_LEAST = 0.055, 2.5  # seconds
KEY_EVERY = 4  # pictures
# A place is [left, top, width, height] of what is pressed next.
ENCODE = """async ([pictures, strip]) => {
  const images = [];
  for (const {png} of pictures) {
    const picture = await fetch(`data:image/png;base64,${png}`);
    images.push(await createImageBitmap(await picture.blob()));
  }
  const {width, height} = images[0], whole = height + strip;
  const canvas = new OffscreenCanvas(width, whole), pen = canvas.getContext("2d");
  const chunks = [], complaints = [];
  const encoder = new VideoEncoder({
    output: (chunk) => {
      const bytes = new Uint8Array(chunk.byteLength);
      chunk.copyTo(bytes);
      let text = "";
      for (const byte of bytes) text += String.fromCharCode(byte);
      chunks.push({bytes: btoa(text), key: chunk.type === "key", at: chunk.timestamp / 1000});
    },
    error: (problem) => complaints.push(problem.message),
  });
  encoder.configure({codec: "vp8", width, height: whole, bitrate: 1_500_000});
  let at = 0;
  for (const [i, {said, place, seconds}] of pictures.entries()) {
    pen.drawImage(images[i], 0, 0);
    if (place) {
      const [left, top, wide, high] = place;
      pen.lineWidth = 4;
      pen.strokeStyle = "#c2410c";
      pen.strokeRect(left - 5, top - 5, wide + 10, high + 10);
    }
    pen.fillStyle = "#1b1b1f";
    pen.fillRect(0, height, width, strip);
    pen.fillStyle = "#ffffff";
    pen.font = "20px sans-serif";
    pen.textBaseline = "middle";
    const lines = [""];
    for (const word of said.split(" ")) {
      const longer = `${lines.at(-1)} ${word}`.trim();
      if (pen.measureText(longer).width <= width - 48) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    if (lines.length > 2) throw new Error(`more than two lines: ${said}`);
    lines.forEach((line, i) =>
      pen.fillText(line, 24, height + strip / 2 + 28 * (i - (lines.length - 1) / 2)));
    const frame = new VideoFrame(canvas, {timestamp: Math.round(at * 1e6)});
    encoder.encode(frame, {keyFrame: i % KEY_EVERY === 0});
    frame.close();
    at += seconds;
  }
  await encoder.flush();
  if (complaints.length) throw new Error(complaints.join("; "));
  return [width, whole, chunks];
}""".replace("KEY_EVERY", str(KEY_EVERY))
# A file that is played to its middle and to its end: seconds, size, and how many colours one sees.
PLAY = """async (source) => {
  const video = document.createElement("video");
  const heard = (name) => new Promise((done, failed) => {
    video.addEventListener(name, done, {once: true});
    video.addEventListener("error", () => failed(new Error(video.error.message)), {once: true});
  });
  const loaded = heard("loadeddata");
  video.src = source;
  await loaded;
  const {duration, videoWidth, videoHeight} = video, colours = [];
  for (const at of [duration / 2, duration - 0.1]) {
    const there = heard("seeked");
    video.currentTime = at;
    await there;
    const canvas = new OffscreenCanvas(videoWidth, videoHeight), pen = canvas.getContext("2d");
    pen.drawImage(video, 0, 0);
    const {data} = pen.getImageData(0, 0, videoWidth, videoHeight);
    colours.push(new Set(new Uint32Array(data.buffer)).size);
  }
  return {seconds: duration, width: videoWidth, height: videoHeight, colours};
}"""


class Recording:
    """The pictures of a walk, each with what is said below it.

    Args:
        page: The page that is walked through.
        title: What one sees, as a sentence.
    """

    def __init__(self, page, title):
        self.page, self.title = page, title
        self.pictures = []

    def say(self, sentence, target=None):
        """Take a picture of the page, with a frame around what is pressed next if there is one."""
        place = None
        if target is not None:
            target.scroll_into_view_if_needed()
            box = target.bounding_box()
            place = [box["x"], box["y"], box["width"], box["height"]]
        png = base64.b64encode(self.page.screenshot()).decode()
        seconds = max(AT_LEAST, PER_LETTER * len(sentence))
        self.pictures.append({"png": png, "said": sentence, "place": place, "seconds": seconds})

    @property
    def seconds(self):
        return sum(picture["seconds"] for picture in self.pictures)

    def save(self, browser, name, folder=FILMS):
        """Write the film and what is said in it, and return what a browser plays of it."""
        assert self.seconds <= LONGEST, f"{name} takes {self.seconds:.0f} s"
        folder.mkdir(parents=True, exist_ok=True)
        blank = folder / "blank.html"  # a page of a disk may encode, an empty one may not
        blank.write_text("<!doctype html>", "utf-8")
        page = browser.new_page()
        page.goto(blank.as_uri())
        width, height, chunks = page.evaluate(ENCODE, [self.pictures, STRIP])
        film = folder / f"{name}.webm"
        film.write_bytes(webm(width, height, self.seconds, chunks))
        said = [picture["said"] for picture in self.pictures]
        about = {"title": self.title, "seconds": round(self.seconds), "said": said}
        about |= {"width": width, "height": height}
        as_text = base64.b64encode(film.read_bytes()).decode()  # of a file no pixel may be read
        played = page.evaluate(PLAY, f"data:video/webm;base64,{as_text}")
        page.close()
        blank.unlink()
        (folder / f"{name}.json").write_text(json.dumps(about, ensure_ascii=False), "utf-8")
        return played


def webm(width, height, seconds, chunks):
    """Return pictures of VP8 as a WebM file that knows its length and where its key frames are."""
    length = part("2AD7B1", 1_000_000), part("4489", seconds * 1000.0)  # in milliseconds
    info = part("1549A966", *length, part("4D80", "dysem-lab"), part("5741", "dysem-lab"))
    picture = part("E0", part("B0", width), part("BA", height))
    numbers = part("D7", 1), part("73C5", 1), part("83", 1)
    tracks = part("1654AE6B", part("AE", *numbers, part("86", "V_VP8"), picture))
    start, clusters, cues = len(info) + len(tracks), b"", b""
    for chunk in chunks:
        if chunk["key"]:
            here = part("F7", 1), part("F1", start + len(clusters))
            cues += part("BB", part("B3", round(chunk["at"])), part("B7", *here))
        block = b"\x81\x00\x00" + (b"\x80" if chunk["key"] else b"\x00")
        block += base64.b64decode(chunk["bytes"])
        clusters += part("1F43B675", part("E7", round(chunk["at"])), part("A3", block))
    kind = part("4282", "webm"), part("4287", 4), part("4285", 2)
    head = part(
        "1A45DFA3", part("4286", 1), part("42F7", 1), part("42F2", 4), part("42F3", 8), *kind
    )
    return head + part("18538067", info, tracks, clusters, part("1C53BB6B", cues))


def part(name, *values):
    """Return an element of EBML (RFC 8794): its id, the length in eight bytes, what it holds."""
    held = b"".join(map(in_bytes, values))
    return bytes.fromhex(name) + (len(held) | 1 << 56).to_bytes(8) + held


def in_bytes(value):
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return struct.pack(">d", value) if isinstance(value, float) else value.to_bytes(8)
