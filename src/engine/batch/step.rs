//! One step: a token of every sequence that decodes, and beside them a bounded piece of the next prompts.

use super::core::{Core, Flight, Seat};
use crate::Result;
use crate::engine::sequence::Desk;
use crate::engine::work::{Course, Kind, Work, not_reserved};
use crate::kernels::sample::sample;
use crate::model::Model;

impl Seat {
    /// True when its prompt has run and a token of its answer is next.
    fn decodes(&self) -> bool {
        let next =
            |course: &Course| course.total < self.seq.context && self.seq.next_kind(course) == Kind::Decode;
        self.course.as_ref().is_some_and(next)
    }

    /// True when its prompt has yet to run, or to run on.
    fn prefills(&self) -> bool {
        self.course.as_ref().is_none_or(|course| self.seq.next_kind(course) == Kind::Prefill)
    }

    /// True when a step can do anything for it.
    pub fn has_work(&self) -> bool {
        self.decodes() || self.prefills()
    }
}

impl Core {
    /// Records and submits a step.
    ///
    /// # Errors
    /// What concerns all sequences; a prompt that cannot run ends its own answer alone.
    pub fn step(&mut self) -> Result<Flight> {
        let Self { model, desk, running, .. } = self;
        let mut rows: Vec<&mut Seat> = running.iter_mut().filter(|seat| seat.decodes()).collect();
        decode(model, desk, &mut rows)?;
        let mut drawing: Vec<u64> = rows.iter().map(|seat| seat.id).collect();
        self.most_sequences = self.most_sequences.max(drawing.len());
        self.prompts(&mut drawing);
        let flight = self.draw(drawing)?;
        self.steps += 1;
        Ok(flight)
    }

    /// Records pieces of prompts, in the order in which they came, until the step's tokens are spent. Who is through
    /// joins `drawing`.
    fn prompts(&mut self, drawing: &mut Vec<u64>) {
        let mut budget = self.options.step_tokens as f64 - drawing.len() as f64;
        let mut spent = false;
        while let Some(place) = self.running.iter().position(Seat::prefills) {
            if spent && budget <= 0.0 {
                return;
            }
            let seat = &mut self.running[place];
            let row = drawing.len();
            match piece(&mut self.desk, seat, row) {
                Ok(tokens) => budget -= tokens,
                Err(error) => {
                    let id = seat.id;
                    self.end(id, Some(error));
                    continue;
                }
            }
            spent = true;
            if seat.course.as_ref().is_some_and(|course| course.at_head()) {
                drawing.push(seat.id);
            }
        }
    }

    /// Records the logits and the draws of the first rows, whose sequences are `drawing`, and submits the step.
    fn draw(&mut self, drawing: Vec<u64>) -> Result<Flight> {
        let Self { model, desk, running, drawn, .. } = self;
        let d = desk.decode.as_ref().ok_or_else(not_reserved)?;
        if !drawing.is_empty() {
            model.logits(&mut desk.rec, d, drawing.len())?;
        }
        let seat_of = |id: u64| running.iter().position(|seat| seat.id == id);
        let places: Vec<usize> = drawing.iter().filter_map(|&id| seat_of(id)).collect();
        let mut draws = Vec::with_capacity(places.len());
        for (row, &place) in places.iter().enumerate() {
            let Seat { seq, course, request, .. } = &running[place];
            let course = course.as_ref().ok_or_else(not_reserved)?;
            draws.push(seq.draw(course, row, &request.generate.sampling));
        }
        sample(&mut desk.rec, &d.logits, model.config().vocab, &draws)?;
        for (row, draw) in draws.iter().enumerate() {
            desk.rec.copy(draw.tokens, draw.at, drawn, row, 1);
        }
        let read = desk.rec.read(drawn, 0, drawing.len().max(1));
        desk.rec.submit();
        for place in places {
            let Seat { seq, course, .. } = &mut running[place];
            if let Some(course) = course {
                seq.note_draw(course);
            }
        }
        Ok(Flight { drawn: read, ids: drawing })
    }
}

/// Records one token of each of `rows` through all layers.
fn decode(model: &Model, desk: &mut Desk, rows: &mut [&mut Seat]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let d = desk.decode.as_ref().ok_or_else(not_reserved)?;
    let tokens: Vec<_> = rows.iter().map(|seat| (&seat.seq.ids, seat.seq.cached)).collect();
    model.begin_step(&mut desk.rec, d, &tokens)?;
    for seat in &mut *rows {
        let Seat { seq, course, .. } = &mut **seat;
        seq.begin_decode(course.as_mut().ok_or_else(not_reserved)?);
    }
    for layer in 0..model.config().layers {
        let group = layer / model.config().kv_sharing;
        let mut leaving = Vec::new();
        for Seat { seq, .. } in rows.iter_mut().map(|seat| &mut **seat) {
            leaving.extend(seq.due_before(layer).map(|due| (&mut seq.cache, due)));
        }
        model.thin_layer(&mut desk.rec, d, &mut leaving, group)?;
        let mut layer_rows = Vec::with_capacity(rows.len());
        for Seat { seq, course, .. } in rows.iter_mut().map(|seat| &mut **seat) {
            layer_rows.push(seq.decode_row(course.as_ref().ok_or_else(not_reserved)?, layer));
        }
        model.decode_layer(&mut desk.rec, d, &mut layer_rows, layer)?;
        let mut leaving = Vec::new();
        for Seat { seq, course, .. } in rows.iter_mut().map(|seat| &mut **seat) {
            let due = seq.due_after(course.as_ref().ok_or_else(not_reserved)?, layer);
            leaving.extend(due.map(|due| (&mut seq.cache, due)));
        }
        model.thin_layer(&mut desk.rec, d, &mut leaving, group)?;
        for Seat { seq, course, .. } in rows.iter_mut().map(|seat| &mut **seat) {
            seq.end_layer(&mut desk.rec, course.as_mut().ok_or_else(not_reserved)?, layer);
        }
    }
    Ok(())
}

/// Records one layer of a prompt's block, whose last row goes to `row` in the end. Returns how many tokens through all
/// layers that amounts to.
fn piece(desk: &mut Desk, seat: &mut Seat, row: usize) -> Result<f64> {
    let Seat { seq, course, request, .. } = seat;
    if course.is_none() {
        *course = Some(seq.begin(desk, seq.context - seq.tokens.len())?);
    }
    let Some(course) = course else { return Err(not_reserved()) };
    course.row = row;
    // A prompt of one token is its own decode step.
    if seq.next_kind(course) != Kind::Prefill {
        return Ok(0.0);
    }
    let before = block_tokens(&course.work);
    seq.advance(desk, course, &request.generate.sampling)?;
    let tokens = before.max(block_tokens(&course.work));
    Ok(tokens as f64 / seq.model.config().layers as f64)
}

/// Tokens of the block under way.
fn block_tokens(work: &Work) -> usize {
    match work {
        Work::Prefill(_, count) => *count,
        Work::Ready | Work::Decode(_) | Work::Head => 0,
    }
}
