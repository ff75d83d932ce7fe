//! Which known names somebody may have meant.

/// Most names that are suggested.
const SUGGESTIONS: usize = 3;

/// The known names nearest to `given`, the nearest first; none when nothing is near.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let near = given.chars().count().div_ceil(3).max(2);
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|name| {
            let steps = distance(&given.to_lowercase(), &name.to_lowercase());
            let part = given.len() >= 2 && (name.contains(given) || given.contains(name));
            (steps <= near || part).then_some((steps, name))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}

/// How many letters have to be added, removed, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            next[j] = (row[j] + 1).min(next[j - 1] + 1).min(row[j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_hand_are_near() {
        let known = ["echo", "ocr", "whisper", "echo-rust"];
        assert_eq!(nearest("ehco", known), ["echo"]);
        assert_eq!(nearest("wisper", known), ["whisper"]);
        assert_eq!(nearest("Echo", known)[0], "echo");
        assert_eq!(nearest("rust", known), ["echo-rust"]);
        assert_eq!(nearest("transcribe", known), [""; 0]);
    }

    #[test]
    fn distances_count_steps() {
        for (a, b, steps) in
            [("", "abc", 3), ("abc", "acb", 1), ("kitten", "sitting", 3), ("same", "same", 0)]
        {
            assert_eq!(distance(a, b), steps, "{a} {b}");
        }
    }
}
