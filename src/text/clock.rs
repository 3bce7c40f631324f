//! The date for `strftime_now`, which some chat templates put into their system message.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The present in UTC, in the form that `format` describes.
pub(super) fn now(format: &str) -> Result<String, String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    strftime(format, seconds)
}

/// C's `strftime` with the conversions that templates use; `seconds` since 1970.
fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(days % 7) as usize];

    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let part = match rest.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => format!("{:02}", second / 3600),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('%') => "%".to_owned(),
            other => {
                return Err(format!(
                    "strftime_now does not know '%{}'",
                    other.map(String::from).unwrap_or_default()
                ));
            }
        };
        text.push_str(&part);
    }
    Ok(text)
}

/// Year, month (1 to 12) and day of the month, `days` after 1 January 1970.
///
/// Counts from 1 March of year 0, so that the leap day is a year's last (Hinnant, "chrono-compatible
/// low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let format = "%A, %d %B %Y %H:%M:%S|%a %e %b %y|%m%%";
        for (seconds, expected) in [
            (0, "Thursday, 01 January 1970 00:00:00|Thu  1 Jan 70|01%"),
            (951_782_399, "Monday, 28 February 2000 23:59:59|Mon 28 Feb 00|02%"),
            (951_782_400, "Tuesday, 29 February 2000 00:00:00|Tue 29 Feb 00|02%"),
            (1_735_689_599, "Tuesday, 31 December 2024 23:59:59|Tue 31 Dec 24|12%"),
            (4_107_542_400, "Monday, 01 March 2100 00:00:00|Mon  1 Mar 00|03%"),
        ] {
            assert_eq!(strftime(format, seconds).as_deref(), Ok(expected));
        }
        assert!(strftime("%Q", 0).is_err());
        assert!(strftime("%", 0).is_err());
    }
}
