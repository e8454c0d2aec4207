//! Places on the Earth and their distances.

use std::fmt;

/// The mean radius of the Earth in metres: the mean of its three semi-axes (IUGG, GRS 80).
const EARTH_RADIUS: f64 = 6_371_008.8;

/// The parts of a degree in which a place is stored: a millionth is a tenth of a metre.
const PARTS: f64 = 1_000_000.0;

/// A place on the Earth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coordinates {
    /// In millionths of a degree, north of the equator.
    latitude: i32,
    /// In millionths of a degree, east of Greenwich.
    longitude: i32,
}

impl Coordinates {
    /// Returns the place at this latitude (-90 to 90) and longitude (-180 to 180) in degrees; `None` if one of them is out of
    /// range.
    pub fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let parts = |degrees: f64, most: f64| {
            // NaN is in no range. A millionth of 180 degrees fits.
            (-most..=most).contains(&degrees).then(|| (degrees * PARTS).round() as i32)
        };
        Some(Self { latitude: parts(latitude, 90.0)?, longitude: parts(longitude, 180.0)? })
    }

    /// Returns the distance to another place on a great circle, in metres. It is rounded, so that libraries whose
    /// sines differ in the last bit agree.
    ///
    /// This is the haversine formula, which is exact for near places too (R. W. Sinnott, "Virtues of the Haversine", Sky
    /// and Telescope 68, 1984). The Earth is taken as a sphere, so a distance is wrong by half a percent at most.
    pub fn distance(self, other: Self) -> u32 {
        let radians = |parts: i32| f64::from(parts) / PARTS * std::f64::consts::PI / 180.0;
        let haversine = |angle: f64| (angle / 2.0).sin().powi(2);
        let (north, other_north) = (radians(self.latitude), radians(other.latitude));
        let east = radians(other.longitude) - radians(self.longitude);
        let square = haversine(other_north - north) + north.cos() * other_north.cos() * haversine(east);
        // Rounding can lead above 1 at the other side of the Earth.
        (2.0 * EARTH_RADIUS * square.sqrt().min(1.0).asin()).round() as u32
    }
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let degrees = |parts: i32| f64::from(parts) / PARTS;
        write!(f, "[{}, {}]", degrees(self.latitude), degrees(self.longitude))
    }
}

impl fmt::Debug for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(latitude: f64, longitude: f64) -> Coordinates {
        Coordinates::new(latitude, longitude).unwrap()
    }

    /// Checks a distance in kilometres.
    fn check(from: (f64, f64), to: (f64, f64), expected: f64) {
        let found = at(from.0, from.1).distance(at(to.0, to.1));
        assert!((f64::from(found) / 1000.0 - expected).abs() < 0.1, "{from:?} {to:?}: {found} m");
        assert_eq!(found, at(to.0, to.1).distance(at(from.0, from.1)));
    }

    #[test]
    fn distances_are_on_great_circles() {
        check((0.0, 0.0), (0.0, 0.0), 0.0);
        // A quarter and a half of the circumference.
        check((0.0, 0.0), (90.0, 0.0), 10_007.6);
        check((0.0, 0.0), (0.0, 180.0), 20_015.1);
        check((0.0, -90.0), (0.0, 90.0), 20_015.1);
        check((90.0, 0.0), (-90.0, 77.0), 20_015.1);
        // One degree of a meridian, and of the parallel at 60 degrees, along which the great circle is a little shorter.
        check((10.0, 5.0), (11.0, 5.0), 111.2);
        check((60.0, 5.0), (60.0, 6.0), 55.6);
        // All points of a pole are one place, and the longitudes -180 and 180 too.
        check((90.0, 10.0), (90.0, -120.0), 0.0);
        check((12.0, 180.0), (12.0, -180.0), 0.0);
        check((0.0, 179.5), (0.0, -179.5), 111.2);
    }

    #[test]
    fn places_are_in_range() {
        for (latitude, longitude, is_place) in [
            (90.0, 180.0, true),
            (-90.0, -180.0, true),
            (90.1, 0.0, false),
            (0.0, 180.1, false),
            (f64::NAN, 0.0, false),
            (0.0, f64::INFINITY, false),
        ] {
            assert_eq!(Coordinates::new(latitude, longitude).is_some(), is_place, "{latitude} {longitude}");
        }
        assert_eq!(at(52.37, -4.9).to_string(), "[52.37, -4.9]");
    }

    proptest! {
        #[test]
        fn distances_are_bounded_and_symmetric(
            one in (-90.0..=90.0, -180.0..=180.0),
            other in (-90.0..=90.0, -180.0..=180.0),
        ) {
            let (one, other) = (at(one.0, one.1), at(other.0, other.1));
            let distance = one.distance(other);
            prop_assert!(distance <= 20_015_116);
            prop_assert_eq!(distance, other.distance(one));
            prop_assert_eq!(one.distance(one), 0);
        }
    }
}
