//! `branchynet classify` on pictures as users have them.

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit code, standard output and standard error.
fn classify(arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_branchynet"));
    let output = Command::new(program).arg("classify").args(arguments).output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A folder of a test's own, which is removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("branchynet-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The path of a new picture, whose name says its format.
    fn save(&self, name: &str, picture: impl Into<DynamicImage>) -> String {
        picture.into().save(self.path(name)).expect("a picture");
        self.path(name)
    }

    /// The path of a new file.
    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).expect("a file");
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What `--json` says of pictures, which all are answered.
fn answers(arguments: &[&str]) -> Vec<serde_json::Value> {
    let (code, out, error) = classify(&[arguments, &["--json"]].concat());
    assert_eq!(code, Some(0), "{error}");
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn labels(answers: &[serde_json::Value]) -> Vec<&str> {
    answers.iter().map(|answer| answer["label"].as_str().expect("a label")).collect()
}

/// Strokes of 56×56 pixels, as boxes from left upper to right lower corner.
const DIGITS: [(&str, &[[u32; 4]]); 3] = [
    ("1", &[[26, 8, 30, 48]]),
    ("7", &[[14, 8, 42, 12], [36, 12, 42, 48]]),
    ("0", &[[16, 8, 40, 13], [16, 43, 40, 48], [16, 8, 21, 48], [35, 8, 40, 48]]),
];

/// Whether there is ink of a digit at a place.
fn ink(digit: usize, x: u32, y: u32) -> bool {
    DIGITS[digit]
        .1
        .iter()
        .any(|[left, top, right, bottom]| (*left..*right).contains(&x) && (*top..*bottom).contains(&y))
}

#[test]
fn a_digit_is_found_on_any_paper() {
    let folder = Folder::new("paper");
    let grey = |v: u32| Rgba([v as u8, v as u8, v as u8, 255]);
    // Uneven light and grain: the far side of the paper is hardly brighter than ink on the near side is dark.
    let lit = |x: u32, y: u32, ink| grey(if ink { 90 } else { 210 } - x * 80 / 200 + (x * 7 + y * 13) % 5);
    let blue = |ink| if ink { Rgba([20, 30, 160, 255]) } else { Rgba([240, 235, 200, 255]) };
    type Look<'a> = &'a dyn Fn(u32, u32, bool) -> Rgba<u8>;
    // How a pixel looks with ink and without, the side of the canvas, and where on it the digit lies.
    let looks: [(&str, Look, u32, [u32; 2]); 5] = [
        ("white", &|_, _, ink| grey(if ink { 0 } else { 255 }), 56, [0, 0]),
        ("clear", &|_, _, ink| Rgba([0, 0, 0, if ink { 255 } else { 0 }]), 56, [0, 0]),
        ("black", &|_, _, ink| grey(if ink { 255 } else { 0 }), 56, [0, 0]),
        ("lit", &lit, 200, [140, 3]),
        ("blue", &|_, _, ink| blue(ink), 300, [30, 220]),
    ];
    for (name, look, canvas, [left, top]) in looks {
        let picture = |digit| {
            let pixel = |x: u32, y: u32| look(x, y, ink(digit, x.wrapping_sub(left), y.wrapping_sub(top)));
            folder.save(&format!("{name}{digit}.png"), RgbaImage::from_fn(canvas, canvas, pixel))
        };
        let paths = [0, 1, 2].map(picture);
        let seen = |more: &[&str]| answers(&[&["lenet"], more, &[&paths[0], &paths[1], &paths[2]]].concat());
        assert_eq!(labels(&seen(&[])), ["1", "7", "0"], "{name}");
        for answer in seen(&[]) {
            assert_eq!(answer["warnings"].to_string().contains("inverted"), name != "black", "{answer}");
        }
        if name == "white" {
            assert_eq!(labels(&seen(&["--invert"])), ["1", "7", "0"]);
            // Neither inverted nor cut out, and nothing is said.
            assert_ne!(labels(&seen(&["--as-is"])), ["1", "7", "0"]);
            assert_eq!(labels(&seen(&["--as-is", "--invert"])), ["1", "7", "0"]);
            assert_eq!(seen(&["--as-is"])[0]["warnings"].to_string(), "[]");
        }
    }
    // A digit that is as MNIST's are is not touched.
    let ready = GrayImage::from_fn(28, 28, |x, y| {
        Luma([if (13..15).contains(&x) && (4..24).contains(&y) { 255 } else { 0 }])
    });
    let path = folder.save("ready.png", ready);
    let both = [answers(&["lenet", &path]), answers(&["lenet", "--as-is", &path])];
    assert_eq!(both[0], both[1]);
    // What has no ink is said to have none; two digits, and a scanner's black frame, are said to be odd.
    let paper = |ink: &dyn Fn(u32, u32) -> bool| {
        GrayImage::from_fn(160, 56, |x, y| Luma([if ink(x, y) { 20 } else { 230 }]))
    };
    let two = |x: u32, y: u32| ink(0, x, y) || ink(1, x.wrapping_sub(80), y);
    let frame = |x: u32, y: u32| ink(0, x, y) || x < 3 || y < 3 || x >= 157 || y >= 53;
    type Drawn<'a> = &'a dyn Fn(u32, u32) -> bool;
    let odd: [(&str, Drawn); 3] = [
        ("nothing stands out", &|_, _| false),
        ("one digit in a picture", &two),
        ("paper all around", &frame),
    ];
    for (warning, ink) in odd {
        let seen = answers(&["lenet", &folder.save("odd.png", paper(ink))]);
        assert!(seen[0]["warnings"].to_string().contains(warning), "{}", seen[0]);
    }
}

/// A picture of 128 colours, as many as a GIF may have, that looks different when turned.
fn photo() -> RgbImage {
    let step = |place: u32| (place / 8 * 32) as u8;
    RgbImage::from_fn(64, 64, |x, y| Rgb([step(x), step(y), if x > y { 200 } else { 40 }]))
}

/// A JPEG of `picture`, with a note how it is to be turned where `orientation` is given (EXIF).
fn jpeg(picture: &RgbImage, orientation: Option<u8>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Jpeg).expect("a JPEG");
    let (mut bytes, note) = (
        bytes.into_inner(),
        orientation.map_or(Vec::new(), |orientation| {
            let exif = [
                b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0",
                &[orientation, 0, 0, 0][..],
            ];
            [&exif.concat()[..], &[0; 4]].concat()
        }),
    );
    bytes.splice(2..2, note);
    bytes
}

#[test]
fn a_picture_is_the_same_in_every_format() {
    let folder = Folder::new("formats");
    let photo = photo();
    let wide = |divisor: u16| {
        let mut picture = DynamicImage::from(photo.clone()).into_rgb16();
        picture.iter_mut().for_each(|value| *value /= divisor);
        picture
    };
    let paths = [
        folder.save("8.png", photo.clone()),
        folder.save("8.bmp", photo.clone()),
        folder.save("8.tiff", photo.clone()),
        folder.save("8.webp", photo.clone()),
        folder.save("8.gif", photo.clone()),
        folder.save("opaque.png", DynamicImage::from(photo.clone()).into_rgba8()),
        folder.save("16.png", wide(1)),
        folder.save("16.tiff", wide(1)),
        folder.save("12.png", wide(16)),
        folder.save("10.tiff", wide(64)),
        folder.save("8_of_16.png", wide(257)),
    ];
    std::fs::copy(&paths[0], folder.path("png.jpg")).expect("a copy");
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let seen = answers(&[&["alexnet"], &paths[..], &[&folder.path("png.jpg")]].concat());
    let probability = |answer: &serde_json::Value| answer["probability"].as_f64().expect("a number");
    for (answer, path) in seen.iter().zip(&paths) {
        let bits = [("/12.png", "12 bits"), ("/10.tiff", "10 bits"), ("/8_of_16.png", "8 bits")];
        let bits = bits.iter().find(|(name, _)| path.ends_with(name)).map(|(_, bits)| *bits);
        assert!(answer["warnings"].to_string().contains(bits.unwrap_or("[]")), "{answer}");
        // The last of the eight bits is rounded otherwise.
        let tolerance = if bits.is_some() { 0.01 } else { 0.0 };
        assert_eq!(answer["label"], seen[0]["label"], "{path}");
        assert!((probability(answer) - probability(&seen[0])).abs() <= tolerance, "{answer}, {}", seen[0]);
    }
    assert_eq!(seen.len(), 12);
    // A camera that was held upright, or on its head.
    for (orientation, turn) in [
        (1, DynamicImage::clone as fn(&DynamicImage) -> _),
        (3, DynamicImage::rotate180),
        (6, DynamicImage::rotate90),
        (8, DynamicImage::rotate270),
    ] {
        let lying = folder.write("lying.jpeg", &jpeg(&photo, Some(orientation)));
        let plain = image::load_from_memory(&jpeg(&photo, None)).expect("a JPEG");
        let upright = folder.save("upright.png", turn(&plain));
        let seen = answers(&["alexnet", &lying, &upright]);
        assert_eq!(seen[0]["probability"], seen[1]["probability"], "{orientation}");
    }
}

#[test]
fn pictures_stream_and_a_bad_one_is_named() {
    let folder = Folder::new("stream");
    let inner = Folder(folder.0.join("b"));
    std::fs::create_dir_all(inner.0.join(".hidden")).expect("a folder");
    let one = GrayImage::from_fn(56, 56, |x, y| Luma([if ink(0, x, y) { 0 } else { 255 }]));
    // More than one chunk, out of order, and what is no picture.
    for i in (0..40).rev() {
        folder.save(&format!("a{i:02}.png"), one.clone());
    }
    inner.save("c.bmp", one.clone());
    std::fs::rename(inner.path("c.bmp"), inner.path("no_extension")).expect("renamed");
    inner.save(".hidden/d.png", one.clone());
    inner.save(".e.png", one.clone());
    inner.write("notes.txt", b"two of them");
    // Nobody writes to it.
    let pipe = std::process::Command::new("mkfifo").arg(inner.path("pipe.png")).status();
    assert!(pipe.expect("mkfifo").success());
    let root = folder.0.display().to_string();
    let (code, out, error) = classify(&["lenet", &root]);
    assert_eq!(code, Some(0), "{error}");
    let first = |line: &str| line.split_whitespace().next().map(str::to_string);
    let names: Vec<String> = out.lines().skip(1).filter_map(first).collect();
    let expected: Vec<String> = (0..40).map(|i| folder.path(&format!("a{i:02}.png"))).collect();
    assert_eq!(names, [expected, vec![inner.path("no_extension")]].concat());
    // What was done is said once, and counted.
    let warnings: Vec<&str> = error.lines().collect();
    assert!(
        warnings.len() == 2
            && warnings[0].contains("a00.png: dark on bright")
            && warnings[1].contains("40 more"),
        "{error}"
    );

    // What is named as a picture should be one.
    let bytes = std::fs::read(folder.path("a00.png")).expect("a file");
    folder.write("a10.png", &bytes[..bytes.len() / 2]);
    folder.write("a20.png", b"");
    folder.write("a30.png", b"no picture");
    let (code, out, error) = classify(&["lenet", &root, &folder.path("missing.png"), "--as-is"]);
    assert_eq!((code, out.lines().count()), (Some(1), 39));
    let parts = [
        "a10.png: it is cut off",
        "a20.png: the file is empty",
        "a30.png: it is no PNG",
        "missing.png: No such file",
        "4 of 42",
    ];
    assert_eq!(error.lines().count(), parts.len(), "{error}");
    assert!(
        parts
            .iter()
            .zip(error.lines())
            .all(|(part, line)| line.starts_with("branchynet: ") && line.contains(part)),
        "{error}"
    );

    let empty = Folder::new("empty");
    let (code, out, error) = classify(&["lenet", &empty.0.display().to_string()]);
    assert!(code == Some(1) && out.is_empty() && error.contains("no picture below this folder"), "{error}");
}

#[test]
fn what_is_cut_off_is_an_error() {
    let folder = Folder::new("cut");
    // Noise, so that every part of a file counts.
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    let photo = RgbImage::from_fn(200, 200, |_, _| Rgb([noise(), noise(), noise()]));
    for format in ["png", "jpeg", "gif", "bmp", "tiff", "webp"] {
        let path = folder.save(&format!("whole.{format}"), photo.clone());
        let bytes = std::fs::read(&path).expect("a file");
        for percent in [10, 60, 95] {
            let part = folder.write(&format!("part.{format}"), &bytes[..bytes.len() * percent / 100]);
            let (code, out, error) = classify(&["alexnet", &part]);
            assert!(
                code == Some(1) && out.is_empty() && error.lines().count() == 1,
                "{format}, {percent} %: {error}"
            );
        }
        assert_eq!(answers(&["alexnet", &path]).len(), 1);
    }
    // A preview in the notes has an end of its own.
    let mut bytes = jpeg(&photo, Some(1));
    bytes.splice(2..2, *b"\xff\xec\0\x06\xff\xd9\xff\xd9");
    assert_eq!(answers(&["alexnet", &folder.write("preview.jpeg", &bytes)]).len(), 1);
    let (code, _, error) = classify(&["alexnet", &folder.write("preview.jpeg", &bytes[..bytes.len() / 2])]);
    assert!(code == Some(1) && error.contains("cut off"), "{error}");
}

#[test]
fn answers_are_lines_for_people_or_machines() {
    let folder = Folder::new("lines");
    let one = GrayImage::from_fn(90, 56, |x, y| {
        Luma([if (42..48).contains(&x) && (10..46).contains(&y) { 0 } else { 255 }])
    });
    let path = folder.save("one.png", one);
    let (code, out, error) = classify(&["lenet", &path]);
    assert_eq!(code, Some(0), "{error}");
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["picture", "label", "exit", "entropy", "probability"]);
    let seen = &answers(&["lenet", &path])[0];
    assert_eq!(lines[1][..3], [path.as_str(), "1", &seen["exit"].to_string()]);
    for (column, key) in [(3, "uncertainty"), (4, "probability")] {
        assert_eq!(lines[1][column], format!("{:.4}", seen[key].as_f64().expect("a number")), "{seen}");
    }
    // With thresholds of one's own: nothing leaves early, or everything does.
    for (threshold, exit) in [("0", 2), ("inf", 1)] {
        assert_eq!(answers(&["lenet", &path, "--thresholds", threshold])[0]["exit"], exit);
    }
    let text = folder.write("text.png", b"no picture");
    for (wrong, part) in [
        (&["vgg", &path][..], "no trained weights of \"vgg\""),
        (&["lenet", &text], "cannot read"),
        (&["lenet", &path, "--choice", "luck"], "there is no choice \"luck\""),
        (&["lenet", &path, "--thresholds", "1,2"], "2 exits need 1 thresholds"),
    ] {
        let (code, _, error) = classify(wrong);
        assert!(code != Some(0) && error.contains(part) && error.trim_end().lines().count() == 1, "{error}");
    }
}
