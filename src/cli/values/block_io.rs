//! `--blkio-weight`, `--device-read-bps` and the like: a number, or a device of the host and one. Whether
//! there is such a device, [`crate::sandbox::block_io`] says.

use anyhow::{Context, Result, bail};

use super::number;
use crate::sandbox::block_io::{OfDevice, WEIGHTS};

/// `--blkio-weight`; 0 is none.
///
/// # Errors
/// In Docker's words.
pub fn weight(text: &str) -> Result<u16> {
    let weight = text.parse().context("not a whole number")?;
    if weight != 0 && !WEIGHTS.contains(&weight) {
        bail!("Range of blkio weight is from 10 to 1000");
    }
    Ok(weight)
}

/// `--blkio-weight-device /dev/sda:500`.
///
/// # Errors
/// In Docker's words.
pub fn device_weight(text: &str) -> Result<OfDevice> {
    of_device(text, |value| {
        let wrong = || format!("invalid weight for device: {text}");
        Ok(weight(value).ok().with_context(wrong)?.into())
    })
}

/// `--device-read-bps /dev/sda:1mb`.
///
/// # Errors
/// In Docker's words.
pub fn bytes_of_device(text: &str) -> Result<OfDevice> {
    let wrong = || {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. \
             Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    };
    of_device(text, |value| number::bytes(value).ok().with_context(wrong))
}

/// `--device-read-iops /dev/sda:100`.
///
/// # Errors
/// In Docker's words.
pub fn requests_of_device(text: &str) -> Result<OfDevice> {
    let wrong = || {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. \
             Number must be a positive integer"
        )
    };
    of_device(text, |value| value.parse().ok().with_context(wrong))
}

fn of_device(text: &str, value: impl Fn(&str) -> Result<u64>) -> Result<OfDevice> {
    let (path, number) = match text.split_once(':') {
        Some((path, number)) if !path.is_empty() => (path, number),
        _ => bail!("bad format: {text}"),
    };
    if !path.starts_with("/dev/") {
        bail!("bad format for device path: {text}");
    }
    Ok(OfDevice {
        path: path.to_owned(),
        value: value(number)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_and_a_number_are_read_as_docker_does() {
        let of = |value| OfDevice {
            path: "/dev/sda".to_owned(),
            value,
        };
        assert_eq!(bytes_of_device("/dev/sda:1mb").unwrap(), of(1 << 20));
        assert_eq!(bytes_of_device("/dev/sda:0").unwrap(), of(0));
        assert_eq!(requests_of_device("/dev/sda:100").unwrap(), of(100));
        assert_eq!(device_weight("/dev/sda:500").unwrap(), of(500));
        assert_eq!((weight("0").unwrap(), weight("10").unwrap()), (0, 10));
    }

    #[test]
    fn what_is_wrong_is_told_in_dockers_words() {
        let say = |result: Result<OfDevice>| result.unwrap_err().to_string();
        for text in ["/dev/sda", ":1", ""] {
            assert_eq!(say(bytes_of_device(text)), format!("bad format: {text}"));
        }
        let elsewhere = "bad format for device path: sda:1";
        assert_eq!(say(requests_of_device("sda:1")), elsewhere);
        assert_eq!(
            say(bytes_of_device("/dev/sda:fast")),
            "invalid rate for device: /dev/sda:fast. The correct format is \
             <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and \
             can be kb, mb, or gb"
        );
        assert_eq!(
            say(requests_of_device("/dev/sda:1k")),
            "invalid rate for device: /dev/sda:1k. The correct format is <device-path>:<number>. \
             Number must be a positive integer"
        );
        let wrong = "invalid weight for device: /dev/sda:5";
        assert_eq!(say(device_weight("/dev/sda:5")), wrong);
        for text in ["9", "1001"] {
            let error = weight(text).unwrap_err().to_string();
            assert_eq!(error, "Range of blkio weight is from 10 to 1000");
        }
        for text in ["-1", "65536", "x"] {
            assert_eq!(weight(text).unwrap_err().to_string(), "not a whole number");
        }
    }
}
